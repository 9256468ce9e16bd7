"""Trimming keeps a tail, and never cuts what any group has not acknowledged."""

from collections.abc import Callable
from typing import Any

from recsys.events.trim import Trimmer
from recsys.state.client import writer


def fill(stream: Any, n: int) -> list[str]:
    pipe = stream.redis.pipeline(transaction=False)
    for i in range(n):
        pipe.xadd(stream.keys.events, {"type": "interaction", "user_id": f"u{i % 50}", "item_id": "i", "kind": "view"})
    return [str(entry_id) for entry_id in pipe.execute()]


def first_id(stream: Any) -> str:
    return str(stream.redis.xinfo_stream(stream.keys.events)["first-entry"][0])


def test_applied_entries_are_cut_and_a_tail_is_kept(make_stream: Callable[..., Any]) -> None:
    stream = make_stream(events={"retain_entries": 1_000})
    stream.start_worker()
    for _ in range(30):
        fill(stream, 200)
        stream.settle()
        assert stream.redis.xlen(stream.keys.events) >= 200
    length = stream.redis.xlen(stream.keys.events)
    assert 1_000 <= length < 6_000, "something was cut, and not too much"
    fill(stream, 100)
    stream.eventually(lambda: stream.redis.xlen(stream.keys.events) <= 2_000, what="the tail is bounded")
    assert stream.redis.xlen(stream.keys.events) >= 1_000


def test_a_second_group_that_does_not_read_stops_the_cut(make_stream: Callable[..., Any]) -> None:
    stream = make_stream(events={"retain_entries": 100})
    stream.redis.xgroup_create(stream.keys.events, "training", id="0", mkstream=True)
    stream.start_worker()
    written = fill(stream, 500)
    stream.settle()
    # The second group reads 250 entries and acknowledges all but one in the middle.
    [(_, entries)] = stream.redis.xreadgroup("training", "t", {stream.keys.events: ">"}, count=250)
    stream.redis.xack(stream.keys.events, "training", *[i for i, _ in entries if i != written[120]])
    for _ in range(20):
        fill(stream, 100)
        stream.settle()
    stream.eventually(lambda: first_id(stream) > written[0], what="what both groups acknowledged goes")
    assert stream.redis.xrange(stream.keys.events, written[120], written[120]), "still pending in the second group"
    assert len(stream.redis.xrange(stream.keys.events, written[250], "+")) == 250 + 20 * 100, "not yet read by it"
    stream.redis.xack(stream.keys.events, "training", written[120])
    stream.redis.xgroup_setid(stream.keys.events, "training", "$")
    stream.eventually(lambda: stream.redis.xlen(stream.keys.events) < 1_000 or not fill(stream, 10), what="cut again")


def test_a_group_that_appears_between_mark_and_cut_loses_nothing(make_stream: Callable[..., Any]) -> None:
    stream = make_stream(events={"retain_entries": 100})
    group = stream.settings.events.group
    trimmer = Trimmer(writer(stream.settings.redis), stream.keys, retain=100, group=group, reader_lag_max=200_000)
    stream.redis.xgroup_create(stream.keys.events, group, id="0", mkstream=True)

    def apply_and_trim() -> int:
        fill(stream, 300)
        [(_, entries)] = stream.redis.xreadgroup(group, "c", {stream.keys.events: ">"}, count=300)
        stream.redis.xack(stream.keys.events, group, *[entry_id for entry_id, _ in entries])
        stream.redis.hincrby(stream.keys.stats, "acknowledged", 300)
        return trimmer.trim()

    assert [apply_and_trim() > 0 for _ in range(4)] == [False, False, True, True], "a mark, then a cut behind it"
    stream.redis.xgroup_create(stream.keys.events, "newcomer", id="0")
    assert [apply_and_trim() for _ in range(3)] == [0, 0, 0], "it has read nothing, so nothing more may go"
    stream.redis.xgroup_destroy(stream.keys.events, "newcomer")
    assert sum(apply_and_trim() for _ in range(3)) > 0


def test_a_reader_that_died_does_not_hold_the_stream_for_ever(make_stream: Callable[..., Any]) -> None:
    stream = make_stream(events={"retain_entries": 100, "reader_lag_max": 500})
    stream.redis.xgroup_create(stream.keys.events, "gone", id="0", mkstream=True)
    stream.start_worker()
    written = fill(stream, 300)
    stream.settle()
    fill(stream, 10)
    stream.settle()
    assert first_id(stream) == written[0], "it is not far behind yet"
    stream.eventually(lambda: first_id(stream) > written[0] or not fill(stream, 50), what="now it is")


def test_nor_when_entries_that_it_has_not_read_were_deleted(make_stream: Callable[..., Any]) -> None:
    stream = make_stream(events={"retain_entries": 100, "reader_lag_max": 500})
    stream.redis.xgroup_create(stream.keys.events, "gone", id="0", mkstream=True)
    stream.start_worker()
    written = fill(stream, 300)
    stream.settle()
    stream.redis.xdel(stream.keys.events, written[150])
    lags = {group["name"]: group["lag"] for group in stream.redis.xinfo_groups(stream.keys.events)}
    assert lags["gone"] is None, "Redis has lost count"
    stream.eventually(lambda: first_id(stream) > written[0] or not fill(stream, 50), what="cut all the same")
