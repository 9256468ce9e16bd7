"""Dead letters can be listed, mended, and sent again; no letter takes effect twice."""

import threading
from typing import Any

from recsys.events.dead_letters import list_dead_letters, replay_dead_letters


def test_listed_oldest_first_in_pages(stream: Any) -> None:
    ids = [stream.interact("u1", f"i{n}", "love") for n in range(5)]
    stream.settle()
    letters = list_dead_letters(stream.settings, count=3)
    assert [letter["source_id"] for letter in letters] == ids[:3]
    assert letters[0]["fields"] == {"type": "interaction", "user_id": "u1", "item_id": "i0", "kind": "love"}
    assert "kind: 'love' is not one of" in letters[0]["reason"]
    assert [letter["source_id"] for letter in list_dead_letters(stream.settings, after=letters[-1]["id"])] == ids[3:]


def test_those_that_fail_again_come_back(stream: Any) -> None:
    stream.interact("u1", "i1", "love")
    stream.settle()
    [before] = list_dead_letters(stream.settings)
    assert replay_dead_letters(stream.settings) == 1
    stream.settle()
    [after] = list_dead_letters(stream.settings)
    assert after["id"] != before["id"]
    assert after["reason"] == before["reason"]


def test_mended_and_applied_with_the_time_and_identity_of_the_first_entry(stream: Any) -> None:
    written = stream.interact("u1", "i1", "love", extra="x")
    stream.interact("u1", "i2", "like", ts=int(written.split("-")[0]) + 1)
    stream.settle()
    assert replay_dead_letters(stream.settings, fix={"kind": "like", "extra": ""}) == 1
    stream.settle()
    assert list_dead_letters(stream.settings) == []
    history = stream.redis.zrange(stream.keys.history("u1"), 0, -1)
    assert [member.split("|")[2] for member in history] == ["i1", "i2"], "placed by its own time"
    assert stream.redis.zscore(stream.keys.dedup, written) is not None


def test_two_replays_at_a_time_send_each_letter_once(stream: Any) -> None:
    for n in range(200):
        stream.interact("u1", f"i{n}", "love")
    stream.settle()
    sent: list[int] = []
    replays = [
        threading.Thread(target=lambda: sent.append(replay_dead_letters(stream.settings, fix={"kind": "like"})))
        for _ in range(3)
    ]
    for one in replays:
        one.start()
    for one in replays:
        one.join()
    stream.settle()
    assert sum(sent) == 200
    assert stream.redis.hgetall(stream.keys.counts("u1")) == {"like": "200"}


def test_bytes_that_are_not_text_are_shown_and_kept(stream: Any) -> None:
    stream.redis.xadd(stream.keys.events, {"type": "interaction", "user_id": b"\xff"})
    stream.settle()
    [letter] = list_dead_letters(stream.settings)
    assert letter["fields"]["user_id"] == "\\xff"
    replay_dead_letters(stream.settings, ids=[letter["id"]])
    stream.settle()
    [(_, raw)] = stream.redis.xrange(stream.keys.dead)
    assert raw["field.user_id"] == "\\xff", "the client of this test shows it the same way"


def test_the_number_kept_is_bounded(make_stream: Any) -> None:
    stream = make_stream(events={"dead_letters_max": 100})
    stream.start_worker()
    for _ in range(400):
        stream.add(type="nonsense")
    stream.settle()
    assert 100 <= stream.redis.xlen(stream.keys.dead) < 300
    assert stream.stats()["dead"] == 400
