"""What there is of the service: who runs, how far behind readers of the stream are, what could not be applied."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from recsys.api.congestion import Congestion
from recsys.api.heads import TARGET
from recsys.api.kept_answer import KeptAnswer
from recsys.api.metrics import ApiMetrics
from recsys.api.system_schemas import (
    DeadLettersAnswer,
    GroupAnswer,
    ProcessAnswer,
    QueryCountsAnswer,
    RedisAnswer,
    StreamAnswer,
    SystemAnswer,
)
from recsys.events.dead_letters import newest_dead_letters
from recsys.events.schema import FIELDS
from recsys.state.keys import Keys
from recsys.state.presence import SILENT_AFTER_S, QueryCounts, read_processes

FRESH_S = 0.5
LETTERS_READ = 100

_DELIVERY = ("delivered ", "deleted from the stream")


def query_counts(metrics: ApiMetrics, congestion: Congestion) -> QueryCounts:
    """What this process did with the queries it met; any thread may ask."""
    fallbacks = (sample for metric in metrics.fallbacks.collect() for sample in metric.samples)
    return QueryCounts(
        answered=metrics.requests.answered(200, TARGET.decode()),
        fallback=int(sum(sample.value for sample in fallbacks if sample.name.endswith("_total"))),
        refused=metrics.requests.answered(503, TARGET.decode()),
        turned_away=congestion.turned_away,
        limited=metrics.requests.answered(429),
    )


class SystemFacts:
    """Reads it from Redis, at most twice a second whoever asks. Within one event loop."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._kept: KeptAnswer[SystemAnswer] = KeptAnswer(FRESH_S)
        self._letters = DeadLettersAnswer(count=0)
        self._letters_told = ""

    async def now(self) -> SystemAnswer:
        """All of it, at most `FRESH_S` old. Raises `RedisError`."""
        return await self._kept.get(self._read)

    async def _read(self) -> SystemAnswer:
        return SystemAnswer(
            processes=await self._processes(),
            stream=await self._stream(),
            dead_letters=await self._dead_letters(),
            redis=await self._server(),
        )

    async def _processes(self) -> list[ProcessAnswer]:
        return [
            ProcessAnswer(
                role=one.role,
                name=one.name,
                host=one.host,
                pid=one.pid,
                version=one.version,
                model=one.model,
                memory_mb=round(one.memory_mb, 1),
                since=one.since,
                ts=one.ts,
                heard_s=heard_s,
                present=heard_s < SILENT_AFTER_S,
                queries=QueryCountsAnswer.model_validate(one.queries, from_attributes=True) if one.queries else None,
            )
            for one, heard_s in await read_processes(self._redis, self._keys)
        ]

    async def _stream(self) -> StreamAnswer:
        pipe = self._redis.pipeline(transaction=False)
        pipe.xlen(self._keys.events)
        pipe.xinfo_groups(self._keys.events)
        # Bytes: an entry may hold what is not text.
        pipe.execute_command("XREVRANGE", self._keys.events, "+", "-", "COUNT", 1, NEVER_DECODE=True)
        entries, groups, newest = await pipe.execute(raise_on_error=False)
        for answer in (entries, groups, newest):
            if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
                raise answer
        if isinstance(groups, ResponseError):  # there is no stream yet
            return StreamAnswer(entries=0, groups=[])
        newest_ms = _ms(newest[0][0].decode()) if newest else 0
        for info in groups:  # where each one has to go on
            after = f"({info['last-delivered-id']}"
            pipe.execute_command("XRANGE", self._keys.events, after, "+", "COUNT", 1, NEVER_DECODE=True)
        nexts: list[Any] = await pipe.execute() if groups else []
        waits_ms = [_ms(found[0][0].decode()) if found else newest_ms for found in nexts]
        return StreamAnswer(
            entries=int(entries),
            groups=[_group(info, newest_ms - next_ms) for info, next_ms in zip(groups, waits_ms, strict=True)],
        )

    async def _dead_letters(self) -> DeadLettersAnswer:
        """The letters themselves are read only when there is a new one."""
        count, newest = await self._redis.xlen(self._keys.dead), ""
        if count:
            newest = (await newest_dead_letters(self._redis, self._keys, count=1))[0]["id"]
        if newest != self._letters_told:
            letters = await newest_dead_letters(self._redis, self._keys, count=LETTERS_READ) if newest else []
            reasons = Counter(reason_kind(letter["reason"]) for letter in letters)
            self._letters = DeadLettersAnswer(count=count, newest_ms=_ms(newest) or None, reasons=dict(reasons))
            self._letters_told = newest
        return self._letters.model_copy(update={"count": count})

    async def _server(self) -> RedisAnswer:
        told: dict[str, Any] = await self._redis.info("server", "memory")
        most = int(told.get("maxmemory", 0))
        return RedisAnswer(
            version=str(told.get("valkey_version") or told.get("redis_version", "")),
            memory_mb=int(told.get("used_memory", 0)) / 1e6,
            memory_max_mb=most / 1e6 if most else None,
            since=int((time.time() - int(told.get("uptime_in_seconds", 0))) * 1e3),
        )


def reason_kind(reason: str) -> str:
    """What is wrong with a letter, without what it holds: reasons quote what strangers wrote."""
    if reason.startswith(_DELIVERY):
        return "delivery"
    field = re.match(r"(\w+):", reason)
    return field[1] if field and field[1] in FIELDS else "other"


def _group(info: Mapping[str, Any], behind_ms: int) -> GroupAnswer:
    return GroupAnswer(
        name=info["name"],
        consumers=int(info["consumers"]),
        waiting=None if info.get("lag") is None else int(info["lag"]),
        pending=int(info["pending"]),
        behind_s=max(0, behind_ms) / 1e3,  # what came between the two questions is not behind
    )


def _ms(entry_id: str) -> int:
    return int(entry_id.partition("-")[0] or 0)
