"""Measures events and state on this machine: `python -m recsys.events.measure [memory] [rate] [delay]`.

Uses the Redis of the settings under a prefix of its own, which is emptied before and after.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
import structlog
from rich.console import Console
from rich.progress import track

from recsys.config import EventSettings, Settings
from recsys.errors import UnavailableError
from recsys.events.producer import BulkProducer
from recsys.events.schema import KINDS
from recsys.state.client import writer
from recsys.state.keys import Keys

PREFIX = "recsys-measure:"
USERS, ITEMS = 1_000, 10_000
STALL_S = 60

_WORKER = """
import sys
from recsys.config import Settings
from recsys.events.worker import run_worker

run_worker(Settings.model_validate_json(sys.argv[1]))
"""


def memory(settings: Settings, client: redis.Redis, console: Console) -> str:
    """Bytes of 1,000 users whose histories are full, by part."""
    keys, longest = Keys(PREFIX), settings.state.history_max
    with _worker(settings):
        producer = BulkProducer(settings)
        producer.publish(_interactions(USERS * longest * 5 // 4, hide=False))  # more than fits
        producer.wait_until_applied()
    parts = {"history": keys.history, "counters": keys.counts}
    used = {
        name: sum(int(client.memory_usage(key(f"u{n}"), samples=0) or 0) for n in range(USERS))
        for name, key in parts.items()
    }
    full = min(int(client.zcard(keys.history(f"u{n}"))) for n in range(USERS))
    by_part = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in used.items())
    return f"{USERS} users with {full} interactions each: {sum(used.values()) / 1e6:.2f} MB ({by_part})"


def rate(settings: Settings, client: redis.Redis, console: Console) -> str:
    """Events that one worker applies per second when they are all there before it starts."""
    events = 100_000
    BulkProducer(settings, backlog_max=2 * events).publish(_interactions(events))
    with _worker(settings):
        _until_applied(client, 1)
        first, began = _applied(client), time.perf_counter()
        _until_applied(client, events)
        per_s = (events - first) / (time.perf_counter() - began)
    return f"one worker applies {per_s:,.0f} events/s ({events:,} interactions waiting)"


def delay(settings: Settings, client: redis.Redis, console: Console, *, per_s: int = 200, seconds: int = 15) -> str:
    """From the call of XADD to the moment when another client reads the effect; arrivals do not wait for effects."""
    keys, gaps = Keys(PREFIX), random.Random(settings.seed)
    delays_ms: list[float] = []
    waiting: dict[str, float] = {}
    with _worker(settings):
        _wait_for_worker(client, keys)
        due = time.perf_counter()
        for n in track(range(per_s * seconds), "Delay", console=console):
            due += gaps.expovariate(per_s)
            while time.perf_counter() < due or len(waiting) > 1_000:
                _note_effects(client, keys, waiting, delays_ms)
            waiting[f"d{n}"] = time.perf_counter()
            client.xadd(keys.events, _interaction(f"u{n % USERS}", f"i{n % ITEMS}", "view") | {"event_id": f"d{n}"})
        while waiting:
            _note_effects(client, keys, waiting, delays_ms)
    delays_ms.sort()
    p50, p99 = (delays_ms[int(len(delays_ms) * share)] for share in (0.5, 0.99))
    return f"XADD to effect at {per_s} events/s: p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {delays_ms[-1]:.1f} ms"


def _note_effects(client: redis.Redis, keys: Keys, waiting: dict[str, float], delays_ms: list[float]) -> None:
    time.sleep(1e-4)  # leaves Redis and the processor to the worker
    if not waiting:
        return
    applied = client.zmscore(keys.dedup, [*waiting])
    now = time.perf_counter()
    for event_id, at in zip(list(waiting), applied, strict=True):
        if at is not None:
            delays_ms.append((now - waiting.pop(event_id)) * 1e3)


MEASUREMENTS = {"memory": memory, "rate": rate, "delay": delay}


def _interactions(n: int, *, hide: bool = True) -> Iterator[Mapping[str, str]]:
    kinds = KINDS if hide else KINDS[:-1]
    draw = random.Random(0)
    for i in range(n):
        yield _interaction(f"u{i % USERS}", f"i{draw.randrange(ITEMS)}", kinds[draw.randrange(len(kinds))])


def _interaction(user_id: str, item_id: str, kind: str) -> dict[Any, Any]:
    return {"type": "interaction", "user_id": user_id, "item_id": item_id, "kind": kind}


@contextmanager
def _worker(settings: Settings) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", _WORKER, settings.model_dump_json()]) as process:
        try:
            yield
        finally:
            process.terminate()


def _applied(client: redis.Redis) -> int:
    return int(client.hget(Keys(PREFIX).stats, "applied") or 0)


def _until_applied(client: redis.Redis, n: int) -> None:
    deadline = time.monotonic() + STALL_S
    while (applied := _applied(client)) < n:
        if time.monotonic() > deadline:
            raise UnavailableError(f"{applied} of {n} events applied after {STALL_S} s: does the worker run?")
        time.sleep(0.005)


def _wait_for_worker(client: redis.Redis, keys: Keys) -> None:
    client.xadd(keys.events, {"type": "user_delete", "user_id": "nobody"})
    _until_applied(client, 1)


def _empty(client: redis.Redis) -> None:
    for key in client.scan_iter(match=f"{PREFIX}*", count=1_000):
        client.unlink(key)


def main(names: list[str]) -> None:
    """Print one line per measurement."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    settings = Settings()
    settings = settings.model_copy(
        update={
            "redis": settings.redis.model_copy(update={"prefix": PREFIX}),
            "events": EventSettings(**settings.events.model_dump() | {"metrics_port": 0}),
        }
    )
    console = Console(stderr=True)
    with writer(settings.redis) as client:
        for name in names or list(MEASUREMENTS):
            _empty(client)
            line = MEASUREMENTS[name](settings, client, console)
            _empty(client)
            Console().print(line, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main(sys.argv[1:])
