"""`/v1/system` and `/v1/dead-letters` against the real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
import redis

from recsys.api.system import SystemFacts, reason_kind
from recsys.api.system_schemas import StreamAnswer
from recsys.config import RedisSettings
from recsys.state.client import async_client
from recsys.state.keys import Keys
from recsys.state.presence import KEEP_MS, Process

KEYS = Keys()


@pytest.fixture
def http(service: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.base, timeout=20) as client:
        yield client


def system(http: httpx.Client) -> dict[str, Any]:
    answer = http.get("/v1/system")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_every_process_is_there(service: Any, http: httpx.Client, eventually: Any) -> None:
    def roles() -> dict[str, dict[str, Any]]:
        return {one["role"]: one for one in system(http)["processes"] if one["present"]}

    eventually(lambda: {"api", "engine", "worker"} <= roles().keys(), what="all said that they are there")
    found = roles()
    assert {role: found[role]["pid"] for role in ("api", "engine", "worker")} == {
        role: service.pid(role) for role in ("api", "engine", "worker")
    }
    assert found["engine"]["model"] == "tiny"
    assert all(10 < one["memory_mb"] < 10_000 for one in found.values())
    assert {one["version"] for one in found.values()} == {"0.1.0"}
    told = system(http)
    assert told["redis"]["memory_mb"] > 0
    assert told["redis"]["version"]


def test_who_falls_silent_is_shown_as_such(service: Any, http: httpx.Client, eventually: Any) -> None:
    lost = Process(role="worker", name="lost", host="h", pid=1, version="", since=0, ts=0, memory_mb=1.0)
    with redis.Redis.from_url(service.redis.url) as client:
        client.set(KEYS.process("lost"), msgspec.json.encode(lost), px=KEEP_MS - 9_000)
        client.zadd(KEYS.processes, {"lost": 1e13})
        eventually(lambda: any(one["name"] == "lost" for one in system(http)["processes"]), what="it is shown")
        (found,) = [one for one in system(http)["processes"] if one["name"] == "lost"]
        assert not found["present"]
        assert 9 <= found["heard_s"] < 30
        client.delete(KEYS.process("lost"))
        eventually(lambda: all(one["name"] != "lost" for one in system(http)["processes"]), what="it is forgotten")
        client.zrem(KEYS.processes, "lost")


def test_queries_are_counted_by_their_outcome(http: httpx.Client, eventually: Any) -> None:
    def counts() -> dict[str, int]:
        (api,) = [one for one in system(http)["processes"] if one["role"] == "api"]
        found: dict[str, int] = api["queries"]
        return found

    before = counts()
    for _ in range(5):
        body, headers = {"history": ["i1"], "k": 3}, {"X-Deadline-Ms": "5000"}
        assert http.post("/v1/recommendations", json=body, headers=headers).status_code == 200
    eventually(lambda: counts()["answered"] >= before["answered"] + 5, what="the answers are counted")
    assert counts()["turned_away"] <= counts()["refused"]


def test_the_stream_and_its_groups(service: Any, http: httpx.Client, eventually: Any) -> None:
    with redis.Redis.from_url(service.redis.url) as client:
        client.xgroup_create(KEYS.events, "lazy", id="0")
        try:
            client.xreadgroup("lazy", "reader", {KEYS.events: ">"}, count=2)
            client.xadd(KEYS.events, {"type": "interaction", "user_id": b"\xff", "item_id": "i1", "kind": "view"})

            def groups() -> dict[str, dict[str, Any]]:
                return {one["name"]: one for one in system(http)["stream"]["groups"]}

            eventually(lambda: "lazy" in groups(), what="the group is seen")
            eventually(lambda: groups()["features"]["waiting"] == 0, what="the worker is not behind")
            lazy = groups()["lazy"]
            assert (lazy["pending"], lazy["consumers"]) == (2, 1)
            assert lazy["waiting"] > 0
            assert lazy["behind_s"] > 0
            assert system(http)["stream"]["entries"] >= lazy["waiting"] + 2
        finally:
            client.xgroup_destroy(KEYS.events, "lazy")


def test_dead_letters_are_counted_for_all_and_shown_with_the_key(
    service: Any, http: httpx.Client, eventually: Any
) -> None:
    with redis.Redis.from_url(service.redis.url) as client:
        client.xadd(KEYS.events, {"type": "interaction", "user_id": "secret-user", "item_id": "i1", "kind": "adored"})
        client.xadd(KEYS.events, {"type": "interaction", "user_id": b"\xfe", "item_id": "i1", "kind": "view"})

    def reasons() -> dict[str, int]:
        found: dict[str, int] = system(http)["dead_letters"]["reasons"]
        return found

    eventually(lambda: {"kind", "user_id"} <= reasons().keys(), what="both are put aside")
    told = system(http)["dead_letters"]
    assert told["count"] >= 2
    assert told["newest_ms"] > 0
    assert "secret-user" not in str(told)
    assert http.get("/v1/dead-letters").status_code == 401
    answer = http.get("/v1/dead-letters", params={"count": 2}, headers=service.admin).json()
    assert answer["count"] == told["count"]
    newest, before = answer["letters"]
    assert newest["fields"]["user_id"] == "\\xfe"
    assert before["fields"]["user_id"] == "secret-user"
    assert before["reason"].startswith("kind: 'adored' is not one of")
    assert http.get("/v1/dead-letters", params={"count": 101}, headers=service.admin).status_code == 422


def test_a_reason_is_told_without_what_it_holds() -> None:
    assert reason_kind("ts: 'soon' is not a number") == "ts"
    assert reason_kind("my_name_is_eve: not a field of a 'user' event") == "other"
    assert reason_kind("delivered 5 times without success") == "delivery"
    assert reason_kind("ERR user eve is not text") == "other"


def test_a_quiet_night_is_not_behind(redis_url: str) -> None:
    async def run() -> StreamAnswer:
        client = async_client(RedisSettings(url=redis_url))
        try:
            return (await SystemFacts(client, KEYS).now()).stream
        finally:
            await client.aclose()

    with redis.Redis.from_url(redis_url) as client:
        client.xgroup_create(KEYS.events, "idle", id="0", mkstream=True)
        assert asyncio.run(run()).groups[0].behind_s == 0
        client.xadd(KEYS.events, {"n": 1}, id="1000-0")
        client.xreadgroup("idle", "reader", {KEYS.events: ">"})
        for morning_ms in (30_000_000, 30_001_500):
            client.xadd(KEYS.events, {"n": b"\xff"}, id=f"{morning_ms}-0")
        (group,) = asyncio.run(run()).groups
        assert (group.waiting, group.behind_s) == (2, 1.5)
        client.xreadgroup("idle", "reader", {KEYS.events: ">"})
        (group,) = asyncio.run(run()).groups
        assert (group.waiting, group.behind_s) == (0, 0)
