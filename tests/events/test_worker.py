"""The consumer: takes over, survives, keeps order; every entry takes effect once."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from prometheus_client import generate_latest

from recsys.events import worker as worker_module
from recsys.events.backlog import read_backlog
from recsys.events.schema import Interaction
from recsys.events.worker import Worker
from recsys.state.apply import Applier, effect_of
from recsys.state.client import writer


def create_group(stream: Any) -> None:
    stream.redis.xgroup_create(stream.keys.events, stream.settings.events.group, id="0", mkstream=True)


def read_as(stream: Any, consumer: str, count: int = 100) -> list[str]:
    """A consumer that reads and then dies: its entries stay pending."""
    [(_, entries)] = stream.redis.xreadgroup(
        stream.settings.events.group, consumer, {stream.keys.events: ">"}, count=count
    )
    return [entry_id for entry_id, _ in entries]


def like(entry_id: str) -> dict[str, Any]:
    event = Interaction(event_id=entry_id, user_id="u1", item_id="i1", kind="like", ts=1_700_000_000_000)
    return effect_of(entry_id, event, late_after_ms=60_000)


def likes(stream: Any) -> int:
    return int(stream.redis.hget(stream.keys.counts("u1"), "like") or 0)


def test_entries_of_a_dead_consumer_are_taken_over(make_stream: Callable[..., Any]) -> None:
    stream = make_stream(events={"claim_idle_ms": 50, "batch_max": 4})
    create_group(stream)
    for _ in range(10):
        stream.interact("u1", "i1", "like")
    assert len(read_as(stream, "dead")) == 10
    stream.start_worker()
    stream.settle()
    assert likes(stream) == 10


def test_a_consumer_that_wakes_up_too_late_changes_nothing(stream: Any) -> None:
    applier = Applier(
        writer(stream.settings.redis), stream.keys, stream.settings.events, stream.settings.state
    )  # fmt: skip
    entry_id = stream.interact("u1", "i1", "like")
    stream.settle()
    assert applier.apply([like(entry_id)]).outcomes == ("taken",)
    assert likes(stream) == 1


def test_two_workers_with_the_same_entries_apply_each_once(make_stream: Callable[..., Any]) -> None:
    stream = make_stream()
    create_group(stream)
    entries = [stream.interact("u1", "i1", "like") for _ in range(2_000)]
    read_as(stream, "first", 2_000)
    outcomes: list[str] = []

    def race(order: list[str]) -> None:
        applier = Applier(writer(stream.settings.redis), stream.keys, stream.settings.events, stream.settings.state)
        for start in range(0, len(order), 50):
            outcomes.extend(applier.apply([like(entry_id) for entry_id in order[start : start + 50]]).outcomes)

    racers = [threading.Thread(target=race, args=(order,)) for order in (entries, entries, entries[::-1])]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert (outcomes.count("applied"), outcomes.count("taken")) == (2_000, 4_000)
    assert likes(stream) == 2_000


def test_many_workers_that_claim_from_each_other_all_the_time(make_stream: Callable[..., Any]) -> None:
    stream = make_stream(events={"claim_idle_ms": 1, "claim_every_ms": 1, "batch_max": 16, "deliveries_max": 1_000})
    for _ in range(3):
        stream.start_worker()
    for _ in range(1_500):
        stream.interact("u1", "i1", "like")
    stream.settle()
    assert likes(stream) == 1_500
    assert stream.stats()["applied"] == 1_500


def test_an_entry_that_kills_its_worker_goes_to_the_dead_letters_alone(
    make_stream: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream(events={"claim_idle_ms": 20, "deliveries_max": 4})
    parse = worker_module.parse_event

    def deadly(fields: dict[str, str], **bounds: Any) -> Any:
        if fields["user_id"] == "poison":
            raise MemoryError
        return parse(fields, **bounds)

    monkeypatch.setattr(worker_module, "parse_event", deadly)
    for n in range(20):
        stream.interact("poison" if n == 7 else "u1", "i1", "like")
    stop, deaths = threading.Event(), 0

    def supervised() -> None:
        nonlocal deaths
        while not stop.is_set():
            try:
                Worker(stream.settings).run(stop)
            except MemoryError:
                deaths += 1

    supervisor = threading.Thread(target=supervised)
    supervisor.start()
    stream.eventually(lambda: stream.redis.xlen(stream.keys.dead), what="the poison is buried")
    stream.settle()
    stop.set()
    supervisor.join()
    assert likes(stream) == 19
    assert deaths == 4
    [(_, letter)] = stream.redis.xrange(stream.keys.dead)
    assert (letter["field.user_id"], letter["reason"]) == ("poison", "delivered 4 times without success")


def test_an_entry_deleted_before_it_was_applied_holds_nothing_up(make_stream: Callable[..., Any]) -> None:
    stream = make_stream(events={"claim_idle_ms": 20})
    create_group(stream)
    gone, kept = stream.interact("u1", "i1", "like"), stream.interact("u1", "i1", "like")
    assert read_as(stream, "dead") == [gone, kept]
    stream.redis.xdel(stream.keys.events, gone)
    stream.start_worker()
    stream.settle()
    assert likes(stream) == 1


def test_goes_on_after_the_stream_or_the_group_is_gone(stream: Any) -> None:
    stream.interact("u1", "i1", "like")
    stream.settle()
    stream.redis.flushall()
    stream.interact("u1", "i1", "like")
    stream.eventually(lambda: likes(stream) == 1, what="applied after FLUSHALL")
    stream.redis.xgroup_destroy(stream.keys.events, stream.settings.events.group)
    stream.interact("u1", "i1", "like", event_id="e2")
    stream.eventually(lambda: stream.redis.zscore(stream.keys.dedup, "e2"), what="applied after XGROUP DESTROY")


def test_survives_redis_killed_stopped_and_restarted(redis_server: Any, make_stream: Callable[..., Any]) -> None:
    stream = make_stream()
    settings = stream.settings.model_copy(
        update={"redis": stream.settings.redis.model_copy(update={"url": redis_server.url, "socket_timeout_s": 0.2})}
    )
    stop = threading.Event()
    worker = Worker(settings)
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()

    def add_and_wait(event_id: str) -> None:
        with redis.Redis.from_url(redis_server.url) as client:
            client.config_set("appendfsync", "always")  # what Redis said it has, it has after a kill
            fields = {"type": "interaction", "user_id": "u1", "item_id": "i1", "kind": "like", "event_id": event_id}
            client.xadd(stream.keys.events, fields)
            stream.eventually(lambda: client.zscore(stream.keys.dedup, event_id), what=f"{event_id} applied")

    try:
        add_and_wait("before")
        redis_server.kill()
        stream.eventually(lambda: worker.metrics.reconnects._value.get() >= 2, what="it tries again")
        redis_server.start()
        add_and_wait("after the kill")
        tries = worker.metrics.reconnects._value.get()
        redis_server._process.send_signal(signal.SIGSTOP)
        stream.eventually(lambda: worker.metrics.reconnects._value.get() > tries, what="it does not hang")
        redis_server._process.send_signal(signal.SIGCONT)
        add_and_wait("after the stop")
        with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
            assert client.hget(stream.keys.counts("u1"), "like") == "3"
    finally:
        stop.set()
        thread.join()


def test_a_restart_of_redis_leaves_no_lag_that_never_goes(redis_server: Any, make_stream: Callable[..., Any]) -> None:
    """What a group has read is counted in memory, and only in part in the append-only file."""
    stream = make_stream()
    settings = stream.settings.model_copy(
        update={"redis": stream.settings.redis.model_copy(update={"url": redis_server.url})}
    )
    group, events = settings.events.group, stream.keys.events
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("appendfsync", "always")
        client.xgroup_create(events, group, id="0", mkstream=True)
        client.xgroup_create(events, "slow", id="0")
        for n in range(10):
            if n == 5:  # the file begins with the right count, and the reads behind it do not count
                client.bgrewriteaof()
                stream.eventually(lambda: not client.info("persistence")["aof_rewrite_in_progress"], what="rewritten")
            client.xadd(events, {"type": "interaction", "user_id": "u1", "item_id": "i1", "kind": "like"})
            client.xreadgroup(group, "c", {events: ">"})
        client.xack(events, group, *(entry_id for entry_id, _ in client.xrange(events)))
    redis_server.kill()
    redis_server.start()
    with redis.Redis.from_url(redis_server.url) as client:
        known = next(found for found in client.xinfo_groups(events) if found["name"] == group.encode())
        if not known["lag"]:  # a server that counts right: make it wrong by hand
            client.xgroup_setid(events, group, known["last-delivered-id"], entries_read=3)
        assert read_backlog(client, stream.keys, group) > 0
        stop = threading.Event()
        thread = threading.Thread(target=Worker(settings).run, args=(stop,))
        thread.start()
        try:
            stream.eventually(lambda: read_backlog(client, stream.keys, group) == 0, what="the count is right")
            assert read_backlog(client, stream.keys, "slow") == 10, "who has not read all keeps its lag"
            assert client.xlen(events) == 10
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def worker_process(stream: Any) -> Iterator[subprocess.Popen[bytes]]:
    code = "from recsys.config import Settings; from recsys.events.worker import run_worker; run_worker(Settings())"
    environment = os.environ | {"RECSYS_REDIS__URL": stream.settings.redis.url, "RECSYS_EVENTS__BLOCK_MS": "100"}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def test_sigterm_finishes_the_batch_and_ends_the_process(stream: Any, worker_process: subprocess.Popen[bytes]) -> None:
    sent = 0

    def both_consume() -> bool:
        nonlocal sent
        sent += 1
        stream.interact("u1", "i1", "like")
        stream.settle()
        return len(stream.redis.xinfo_consumers(stream.keys.events, stream.settings.events.group)) == 2

    stream.eventually(both_consume, what="the process consumes beside the thread")
    for _ in range(500):
        stream.interact("u1", "i1", "like")
    worker_process.send_signal(signal.SIGTERM)
    assert worker_process.wait(timeout=10) == 0
    stream.settle()
    assert likes(stream) == sent + 500


def test_dead_idle_consumers_are_removed_but_never_their_entries(
    make_stream: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_GONE_AFTER_CLAIM_IDLES", 2)
    stream = make_stream(events={"claim_idle_ms": 100})
    create_group(stream)
    stream.redis.xgroup_createconsumer(stream.keys.events, stream.settings.events.group, "idle")
    stream.interact("u1", "i1", "like")
    read_as(stream, "died with an entry")
    stream.start_worker()
    group = stream.settings.events.group
    stream.eventually(
        lambda: len(stream.redis.xinfo_consumers(stream.keys.events, group)) == 1, what="only the living stay"
    )
    assert likes(stream) == 1


def test_metrics(make_stream: Callable[..., Any]) -> None:
    stream = make_stream()
    worker, stop = Worker(stream.settings), threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    stream.interact("u1", "i1", "like", event_id="e1")
    stream.interact("u1", "i1", "like", event_id="e1")
    stream.interact("u1", "i1", "view", ts=1_700_000_000_000)
    stream.add(type="nonsense")
    stream.settle()
    stop.set()
    thread.join()
    text = generate_latest(worker.metrics.registry).decode()
    for line in (
        'recsys_events_entries_total{outcome="applied",type="interaction"} 2.0',
        'recsys_events_entries_total{outcome="duplicate",type="interaction"} 1.0',
        'recsys_events_entries_total{outcome="dead",type="dead"} 1.0',
        'recsys_events_interactions_total{kind="like"} 1.0',
        "recsys_events_late_total 1.0",
        "recsys_events_backlog 0.0",
        "recsys_events_lag_seconds 0.0",
    ):
        assert line in text
