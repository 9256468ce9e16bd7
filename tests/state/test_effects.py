"""What each type of event does to the state, once, whatever the order and however often it comes."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.events.schema import Impression
from recsys.state.apply import POPULARITY_WEIGHTS, effect_of
from recsys.state.users import Remembered, UserReader, UserState

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def now_ms() -> int:
    return int(time.time() * 1000)


def user(stream: Any, user_id: str) -> UserState:
    return stream.read(lambda client: UserReader(client, stream.keys).get_user(user_id))


def test_a_stranger_has_an_empty_state(stream: Any) -> None:
    assert user(stream, "nobody") == UserState("nobody")
    assert not user(stream, "nobody").known


def test_history_is_placed_by_time_not_by_arrival(stream: Any) -> None:
    base = now_ms() - 1_000
    for offset in (5, 1, 9, 3, 7):
        stream.interact("u1", f"i{offset}", ts=base + offset)
    stream.settle()
    assert user(stream, "u1").history == tuple(Remembered(f"i{n}", "view", base + n) for n in (1, 3, 5, 7, 9))


def test_interactions_of_one_millisecond_keep_their_order_of_arrival(stream: Any) -> None:
    base = now_ms() - 1_000
    order = ["z", "a", "m", "b", "y"]
    for item in order:
        stream.interact("u1", item, ts=base)
    stream.settle()
    assert [seen.item_id for seen in user(stream, "u1").history] == order


def test_history_keeps_the_newest(make_stream: Callable[..., Any]) -> None:
    stream = make_stream(state={"history_max": 3, "hidden_max": 2})
    stream.start_worker()
    base = now_ms() - 1_000
    for offset in (4, 2, 5, 1, 3):
        stream.interact("u1", f"i{offset}", ts=base + offset)
        stream.interact("u1", f"h{offset}", kind="hide", ts=base + offset)
    stream.settle()
    state = user(stream, "u1")
    assert [seen.item_id for seen in state.history] == ["i3", "i4", "i5"]
    assert state.hidden == ("h5", "h4")
    assert state.counts == {"view": 5, "hide": 5}, "counters count what the history forgot"


def test_hide_hides_for_good_and_is_no_interest(stream: Any) -> None:
    stream.interact("u1", "i1", "view")
    stream.interact("u1", "i2", "hide")
    stream.interact("u1", "i2", "like")
    stream.settle()
    state = user(stream, "u1")
    assert state.hidden == ("i2",)
    assert [(seen.item_id, seen.kind) for seen in state.history] == [("i1", "view"), ("i2", "like")]


def test_a_resent_event_changes_nothing(stream: Any) -> None:
    for _ in range(3):
        stream.interact("u1", "i1", "like", event_id="e1")
        stream.settle()
    assert user(stream, "u1").counts == {"like": 1}
    assert stream.redis.hget(stream.keys.item_counts, "i1") == "1"
    assert stream.redis.zscore(stream.keys.popular_all, "i1") == POPULARITY_WEIGHTS["like"]
    assert (stream.stats()["applied"], stream.stats()["duplicates"]) == (1, 2)


def test_the_window_of_event_ids_is_bounded_by_count_and_age(make_stream: Callable[..., Any]) -> None:
    stream = make_stream(events={"dedup_max": 10, "dedup_window_s": 3_600, "batch_max": 1})
    stream.redis.zadd(stream.keys.dedup, {"old": now_ms() - 3_700_000, "young": now_ms() - 3_500_000})
    stream.start_worker()
    stream.interact("u1", "i1", event_id="young")
    stream.interact("u1", "i1", event_id="old")
    stream.settle()
    assert user(stream, "u1").counts == {"view": 1}
    for n in range(30):
        stream.interact("u1", "i1", event_id=f"e{n}")
    stream.settle()
    assert stream.redis.zrange(stream.keys.dedup, 0, -1) == [f"e{n}" for n in range(20, 30)]


def test_late_events_are_applied_and_counted(stream: Any) -> None:
    stream.interact("u1", "i1", ts=now_ms() - 61_000)
    stream.interact("u1", "i2", ts=now_ms() - 1_000)
    stream.settle()
    assert stream.stats()["late"] == 1
    assert user(stream, "u1").counts == {"view": 2}


def test_popularity_goes_to_the_hour_and_day_of_the_event(stream: Any) -> None:
    now = now_ms()
    ages_ms = {"now": 0, "hours": 25 * HOUR_MS, "days": 6 * DAY_MS, "years": 3_000 * DAY_MS}
    for item, age_ms in ages_ms.items():
        stream.interact("u1", item, "purchase", ts=now - age_ms)
    stream.interact("u1", "now", "hide")
    stream.settle()
    weight = POPULARITY_WEIGHTS["purchase"]
    assert dict(stream.redis.zrange(stream.keys.popular_all, 0, -1, withscores=True)) == dict.fromkeys(ages_ms, weight)
    hours = {stream.keys.popular_hour((now - ages_ms[item]) // HOUR_MS): item for item in ("now", "hours")}
    days = {stream.keys.popular_day((now - ages_ms[item]) // DAY_MS): item for item in ("now", "hours", "days")}
    assert set(stream.redis.keys("recsys:pop:h:*")) == set(hours)
    assert set(stream.redis.keys("recsys:pop:d:*")) == set(days)
    for key, item in {**hours, **days}.items():
        assert stream.redis.zscore(key, item) == weight
        assert 0 < stream.redis.ttl(key) <= 9 * 86_400


def test_everything_of_a_user_expires(make_stream: Callable[..., Any]) -> None:
    stream = make_stream(state={"user_ttl_s": 1_000, "impression_ttl_s": 100})
    stream.start_worker()
    stream.interact("u1", "i1")
    stream.interact("u1", "i2", "hide")
    stream.add(type="user", user_id="u1", attributes='{"age": 30}')
    stream.add(type="impression", request_id="r1", user_id="u1", items='["i1"]')
    stream.settle()
    keys = stream.redis.keys("recsys:u:u1:*")
    assert len(keys) == 5
    assert {key: stream.redis.ttl(key) > 0 for key in keys} == dict.fromkeys(keys, True)


def test_an_older_item_or_profile_does_not_replace_a_newer(stream: Any) -> None:
    now = now_ms()
    for title, ts in (("old", now - 2), ("new", now - 1), ("oldest", now - 3)):
        stream.add(type="item", item_id="i1", title=title, ts=ts)
        stream.add(type="user", user_id="u1", attributes=json.dumps({"title": title}), ts=ts)
    stream.add(type="item_delete", item_id="i1", ts=now - 3)
    stream.settle()
    assert json.loads(stream.redis.hget(stream.keys.items, "i1"))["title"] == "new"
    assert user(stream, "u1").attributes == {"title": "new"}


def test_a_deleted_item_leaves_catalogue_counters_and_popularity(stream: Any) -> None:
    stream.add(type="item", item_id="i1", title="Night Train")
    stream.interact("u1", "i1", "like")
    stream.settle()
    stream.add(type="item_delete", item_id="i1")
    stream.settle()
    assert not stream.redis.hexists(stream.keys.items, "i1")
    assert not stream.redis.hexists(stream.keys.item_counts, "i1")
    assert stream.redis.keys("recsys:pop:*") == []


def test_a_deleted_item_is_not_brought_back_by_an_older_event(stream: Any) -> None:
    now = now_ms()
    stream.add(type="item_delete", item_id="i1", ts=now - 5)  # even one that was never there
    stream.add(type="item", item_id="i1", title="late", ts=now - 6)
    stream.settle()
    assert not stream.redis.hexists(stream.keys.items, "i1")
    stream.add(type="item_delete", item_id="i1", ts=now - 9)  # an older deletion does not bring the bound down
    stream.add(type="item", item_id="i1", title="late too", ts=now - 7)
    stream.settle()
    assert not stream.redis.hexists(stream.keys.items, "i1")
    stream.add(type="item", item_id="i1", title="again", ts=now - 4)
    stream.settle()
    assert json.loads(stream.redis.hget(stream.keys.items, "i1"))["title"] == "again"
    assert stream.redis.zcard(stream.keys.items_gone) == 0


def test_an_interaction_before_its_answer_is_attributed_once_the_answer_comes(stream: Any) -> None:
    for request in ("r1", "r"):
        stream.interact("u1", "i2", request_id=request)
    stream.interact("u1", "i9", request_id="r1")
    stream.interact("u2", "i2", request_id="r1")
    stream.settle()
    assert "attributed" not in stream.stats()
    for _ in range(2):
        stream.add(type="impression", request_id="r1", user_id="u1", items='["i1", "i2", "i2"]')
        stream.settle()
    assert stream.stats()["attributed"] == 1
    assert 0 < stream.redis.ttl("recsys:u:u1:early") <= 3_600
    stream.add(type="user_delete", user_id="u1")
    stream.settle()
    assert not stream.redis.exists("recsys:u:u1:early")


def test_an_interaction_is_attributed_to_the_answer_that_showed_the_item(stream: Any) -> None:
    stream.add(type="impression", request_id='r"1', user_id="u1", items='["i1", "i2"]')
    stream.interact("u1", "i2", request_id='r"1')
    stream.interact("u1", "i3", request_id='r"1')
    stream.interact("u2", "i1", request_id='r"1')
    stream.interact("u1", "i1", request_id="r")
    stream.interact("u1", "i1")
    stream.settle()
    assert stream.stats()["attributed"] == 1


def test_remembered_answers_are_bounded(make_stream: Callable[..., Any]) -> None:
    stream = make_stream(state={"impressions_per_user_max": 2, "impression_ttl_s": 60})
    stream.start_worker()
    now = now_ms()
    for n, age_ms in enumerate((61_000, 3_000, 2_000, 1_000)):
        stream.add(type="impression", request_id=f"r{n}", user_id="u1", items='["i1"]', ts=now - age_ms)
    stream.settle()
    shown = stream.redis.zrange(stream.keys.shown("u1"), 0, -1)
    assert [json.loads(member)["request_id"] for member in shown] == ["r2", "r3"]


@given(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_an_answer_is_remembered_as_valid_json(request_id: str, items: list[str]) -> None:
    event = Impression(event_id="e", request_id=request_id, user_id="u", items=tuple(items), ts=1)
    shown = json.loads(effect_of("1-1", event, late_after_ms=1)["json"])
    assert shown == {"request_id": request_id, "items": items}


@pytest.mark.parametrize("user_id", ["u:1", "a:hist", "{x}", "ü ", "*", "|", "💥" * 128])
def test_ids_with_special_characters(stream: Any, user_id: str) -> None:
    stream.interact(user_id, "i|1|like")
    stream.settle()
    assert [seen.item_id for seen in user(stream, user_id).history] == ["i|1|like"]
