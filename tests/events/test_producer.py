"""Writing to the stream: duplicates are known, overload is refused, a lost connection doubles nothing."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from recsys.config import RedisSettings, Settings
from recsys.errors import OverloadedError, UnavailableError
from recsys.events.backlog import count_backlog
from recsys.events.producer import BulkProducer, EventProducer
from recsys.events.schema import Event, Impression, Interaction, UserDelete
from recsys.state.client import async_client, reader, writer
from recsys.state.keys import Keys


def view(n: int) -> Interaction:
    ts = int(time.time() * 1000)
    return Interaction(event_id=f"e{n}", user_id="u1", item_id=f"i{n}", kind="view", ts=ts)


def producer(stream: Any, client: Any, **bounds: int) -> EventProducer:
    backlog_max = bounds.get("backlog_max", 1_000)
    return EventProducer(client, stream.keys, group=stream.settings.events.group, backlog_max=backlog_max)


def test_events_are_written_in_order_and_applied(stream: Any) -> None:
    events: list[Event] = [
        view(1),
        Impression(event_id="x", request_id="r1", user_id="u1", items=("i1",), ts=view(0).ts),
        UserDelete(event_id="d", user_id="u2", ts=view(0).ts),
    ]

    async def add(client: Any) -> list[str]:
        assert await producer(stream, client).add([]) == []
        return await producer(stream, client).add(events)

    ids = stream.read(add)
    assert ids == sorted(ids)
    assert len(ids) == 3
    stream.settle()
    assert stream.stats()["applied"] == 3


def test_applied_events_are_known_as_duplicates(stream: Any) -> None:
    stream.read(lambda client: producer(stream, client).add([view(1), view(2)]))
    stream.settle()
    assert stream.read(lambda client: producer(stream, client).seen(["e1", "e2", "e3"])) == {"e1", "e2"}
    assert stream.read(lambda client: producer(stream, client).seen([])) == set()


def test_too_many_waiting_events_are_refused(make_stream: Callable[..., Any]) -> None:
    stream = make_stream()

    async def fill(client: Any) -> None:
        source = producer(stream, client, backlog_max=10)
        await source.add([view(n) for n in range(8)])
        with pytest.raises(OverloadedError, match="8 events wait to be applied, at most 10") as refused:
            await source.add([view(n) for n in range(3)])
        assert refused.value.retry_after_s > 0

    stream.read(fill)
    assert stream.redis.xlen(stream.keys.events) == 8
    stream.start_worker()
    stream.settle()
    stream.read(lambda client: producer(stream, client, backlog_max=10).add([view(9)]))


def test_backlog_counts_waiting_and_pending_entries(make_stream: Callable[..., Any]) -> None:
    stream = make_stream()
    group = stream.settings.events.group
    for n in range(10):
        stream.interact("u1", f"i{n}")

    async def backlog(client: Any) -> int:
        return await producer(stream, client).backlog()

    assert stream.read(backlog) == 10, "before the group exists everything waits"
    stream.redis.xgroup_create(stream.keys.events, group, id="0")
    [(_, entries)] = stream.redis.xreadgroup(group, "c", {stream.keys.events: ">"}, count=4)
    assert stream.read(backlog) == 10
    stream.redis.xack(stream.keys.events, group, *[entry_id for entry_id, _ in entries])
    assert stream.read(backlog) == 6
    assert count_backlog([{"name": "g", "pending": 2, "lag": None}], 7, "g") == 7, "bounded where lag is unknown"


def test_redis_away_is_unavailable_within_the_time_out(redis_server: Any) -> None:
    async def scenario() -> None:
        client = async_client(RedisSettings(url=redis_server.url, socket_timeout_s=0.2))
        source = EventProducer(client, Keys(), group="g", backlog_max=10)
        await source.add([view(1)])
        redis_server._process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(UnavailableError):
                await source.add([view(2)])
            with pytest.raises(UnavailableError):
                await source.seen(["e1"])
            assert time.monotonic() - began < 5, "two tries and a question of 0.2 s each"
        finally:
            redis_server._process.send_signal(signal.SIGCONT)
        await client.aclose()

    asyncio.run(scenario())


def test_a_full_redis_refuses_new_events_and_applies_those_it_has(redis_server: Any, make_stream: Any) -> None:
    stream = make_stream(url=redis_server.url)
    for n in range(100):
        stream.interact(f"u{n}", "i1")
    stream.redis.config_set("maxmemory", 1)
    with pytest.raises(UnavailableError, match="used memory > 'maxmemory'"):
        stream.read(lambda client: producer(stream, client).add([view(1)]))
    with pytest.raises(UnavailableError, match="used memory > 'maxmemory'"):
        BulkProducer(stream.settings, stall_s=0.1).publish([{"type": "user_delete", "user_id": "u1"}])
    stream.redis.config_set("maxmemory", 0)
    stream.redis.xgroup_create(stream.keys.events, stream.settings.events.group, id="0")
    stream.redis.config_set("maxmemory", 1)
    stream.start_worker()
    stream.settle()
    assert stream.stats()["applied"] == 100


def test_no_client_repeats_a_command_by_itself(redis_server: Any) -> None:
    settings = RedisSettings(url=redis_server.url, socket_timeout_s=0.2)
    redis_server._process.send_signal(signal.SIGSTOP)
    try:
        for client in (writer(settings), reader(settings, block_ms=100)):
            with pytest.raises((redis.TimeoutError, redis.ConnectionError)):
                client.xadd("s", {"a": 1})
            client.close()
    finally:
        redis_server._process.send_signal(signal.SIGCONT)
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.xlen("s") <= 2, "each stalled write at most once"


def test_a_blocking_read_outlasts_the_time_out_of_other_replies(redis_url: str) -> None:
    with reader(RedisSettings(url=redis_url, socket_timeout_s=0.1), block_ms=400) as client:
        assert client.xread({"nothing": "0"}, block=400) == []


def test_bulk_waits_while_the_workers_are_behind(make_stream: Callable[..., Any]) -> None:
    stream = make_stream()
    entries = ({"type": "interaction", "user_id": "u1", "item_id": f"i{n}", "kind": "view"} for n in range(3_000))
    progress: list[int] = []
    written: list[int] = []
    source = BulkProducer(stream.settings, backlog_max=500)
    thread = threading.Thread(target=lambda: written.append(source.publish(entries, progress.append, pipeline=100)))
    thread.start()
    stream.eventually(lambda: progress and progress[-1] == 500, what="room is used")
    assert stream.redis.xlen(stream.keys.events) == 500
    stream.start_worker()
    thread.join()
    source.wait_until_applied()
    assert written == [3_000]
    assert progress == list(range(100, 3_001, 100))
    assert stream.redis.hgetall(stream.keys.counts("u1")) == {"view": "3000"}


def test_bulk_gives_up_when_no_worker_applies(make_stream: Callable[..., Any]) -> None:
    stream = make_stream()
    source = BulkProducer(stream.settings, backlog_max=10, stall_s=0.2)
    entries = [{"type": "user_delete", "user_id": "u1"}] * 30
    with pytest.raises(OverloadedError, match="10 events wait and none was applied"):
        source.publish(entries, pipeline=10)


def test_bulk_gives_up_when_redis_stays_away() -> None:
    settings = Settings(redis=RedisSettings(url="redis://127.0.0.1:1/0"))
    with pytest.raises(UnavailableError, match="Redis did not take the events"):
        BulkProducer(settings, stall_s=0.1).publish([{"type": "user_delete", "user_id": "u1"}])
