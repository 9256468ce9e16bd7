"""Who is there: processes say so, end, are killed, and outlive Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import redis

from recsys.config import RedisSettings, Settings
from recsys.state import presence
from recsys.state.client import async_client
from recsys.state.keys import Keys
from recsys.state.presence import Presence, Process, QueryCounts, read_processes, resident_mb

KEYS = Keys()
SCRIPT = """
import sys, time
from recsys.config import RedisSettings, Settings
from recsys.state.presence import Presence
with Presence(Settings(redis=RedisSettings(url=sys.argv[1])), "worker", "w-1"):
    time.sleep(120)
"""


def settings(url: str) -> Settings:
    return Settings(redis=RedisSettings(url=url))


def heard(url: str) -> list[tuple[Process, float]]:
    async def run() -> list[tuple[Process, float]]:
        client = async_client(RedisSettings(url=url))
        try:
            return await read_processes(client, KEYS)
        finally:
            await client.aclose()

    return asyncio.run(run())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "EVERY_S", 0.02)


def test_a_process_says_what_it_is_and_takes_it_back(redis_url: str, eventually: Any, quick: None) -> None:
    counts = iter(range(10**6))
    with Presence(
        settings(redis_url), "api", "api-1", model=lambda: "m-7", queries=lambda: QueryCounts(answered=next(counts))
    ):
        eventually(lambda: heard(redis_url), what="the process said something")
        (told, age_s), *others = heard(redis_url)
        assert not others
        assert (told.role, told.name, told.model, told.pid) == ("api", "api-1", "m-7", os.getpid())
        assert told.version == presence.code_version() != ""
        assert told.memory_mb == pytest.approx(resident_mb(), rel=0.3)
        assert told.since <= told.ts
        assert 0 <= age_s < 5
        assert told.queries is not None
        before = told.queries.answered
        eventually(lambda: heard(redis_url)[0][0].queries.answered > before, what="it goes on")  # type: ignore[union-attr]
    assert heard(redis_url) == []
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys() == []


def test_a_killed_process_falls_silent_and_is_forgotten(
    redis_url: str, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, redis_url])
    try:
        eventually(lambda: heard(redis_url), what="the process said something")
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=20)
    finally:
        process.kill()
        process.wait()
    eventually(lambda: heard(redis_url)[0][1] > 1.5 * presence.EVERY_S, what="its word grows old")
    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys(KEYS.process("*"))
        assert 0 < client.pttl(key) <= presence.KEEP_MS, "it goes by itself"
        client.pexpire(key, 1)
        eventually(lambda: not client.exists(key), what="a minute passed")
    assert heard(redis_url) == []


def test_redis_may_be_away_and_come_back_empty(redis_server: Any, eventually: Any, quick: None) -> None:
    with Presence(settings(redis_server.url), "engine", "engine-1"):
        eventually(lambda: heard(redis_server.url), what="the process said something")
        redis_server.kill()
        redis_server.start()
        with redis.Redis.from_url(redis_server.url) as client:
            client.flushall()
        eventually(lambda: heard(redis_server.url), what="it is heard again")


def test_the_index_is_bounded(redis_url: str, eventually: Any, quick: None) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.zadd(KEYS.processes, {f"old-{n}": n for n in range(400)})
        client.zadd(KEYS.processes, {f"new-{n}": 10**14 + n for n in range(400)})
        with Presence(settings(redis_url), "worker", "w"):
            eventually(lambda: client.zcard(KEYS.processes) <= presence.PROCESSES_MAX, what="the index is cut")
        assert not client.zrangebyscore(KEYS.processes, 0, 1_000)


def test_a_word_of_another_version_is_passed_over(redis_url: str, eventually: Any, quick: None) -> None:
    with redis.Redis.from_url(redis_url) as client, Presence(settings(redis_url), "worker", "w"):
        for name, word in (("future", '{"role": "oracle"}'), ("broken", "{")):
            client.set(KEYS.process(name), word, px=presence.KEEP_MS)
            client.zadd(KEYS.processes, {name: 1e13})
        eventually(lambda: heard(redis_url), what="the process said something")
        assert [told.name for told, _ in heard(redis_url)] == ["w"]
