"""Which processes there are: each says so every second, and whoever falls silent is forgotten after a minute.

A word is a key that expires, so its age is what is missing of its time to live, by Redis' clock: hosts whose clocks
differ agree on who is silent. The index is a sorted set, so that nobody has to search the keys.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import msgspec
import redis
import redis.asyncio
import structlog

from recsys.config import Settings
from recsys.state.client import writer
from recsys.state.keys import Keys

log = structlog.get_logger(__name__)

Role = Literal["api", "engine", "worker", "learner"]

EVERY_S = 1.0
SILENT_AFTER_S = 5.0  # several words missed: it died, hangs, or cannot reach Redis
KEEP_MS = 60_000  # how long the silent are still shown
INDEX_MS = 3_600_000  # far beyond what clocks differ by
PROCESSES_MAX = 256


class QueryCounts(msgspec.Struct, frozen=True):
    """Queries that one API process answered or refused since it started.

    `fallback` counts answers from popular items (part of `answered`), `turned_away` what was refused before its body
    was read (part of `refused`, all 503), `limited` calls beyond their caller's rate (429), whatever they asked for.
    """

    answered: int = 0
    fallback: int = 0
    refused: int = 0
    turned_away: int = 0
    limited: int = 0


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """What a process says of itself. `since` and `ts` in Unix ms by its own clock, memory resident in 10^6 bytes."""

    role: Role
    name: str
    host: str
    pid: int
    version: str
    since: int
    ts: int
    memory_mb: float
    model: str = ""
    queries: QueryCounts | None = None


class Presence:
    """Says every second that this process is there, in a thread and over a connection of its own.

    A process that ends takes its word back; one that is killed falls silent. Redis may come and go.

    Args:
        role: what the process does. name: what it is called in logs and snapshots.
        model: the model version that it serves or learns now.
        queries: what it answered so far; called in the thread.
    """

    def __init__(
        self,
        settings: Settings,
        role: Role,
        name: str,
        *,
        model: Callable[[], str] = str,
        queries: Callable[[], QueryCounts | None] = lambda: None,
    ) -> None:
        self._keys = Keys(settings.redis.prefix)
        self._redis = writer(settings.redis)
        self._model = model
        self._queries = queries
        host, pid, now_ms = socket.gethostname(), os.getpid(), int(time.time() * 1e3)
        self._id = f"{role}:{host}:{pid}:{name}"
        self._process = Process(
            role=role, name=name, host=host, pid=pid, version=code_version(), since=now_ms, ts=now_ms, memory_mb=0.0
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"presence-{role}", daemon=True)

    def start(self) -> None:
        """Say so from now on."""
        self._thread.start()

    def close(self) -> None:
        """Take the word back; blocks for some seconds where Redis hangs."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        reached = True
        while True:
            try:
                self._say()
                reached = True
            except redis.RedisError as error:
                if reached:
                    log.warning("presence_unsaid", error=str(error))
                reached = False
            if self._stop.wait(EVERY_S):
                break
        try:
            self._take_back()
        except redis.RedisError:
            log.warning("presence_not_taken_back")  # it is forgotten by itself
        self._redis.close()

    def _say(self) -> None:
        now_ms = int(time.time() * 1e3)
        told = msgspec.structs.replace(
            self._process, ts=now_ms, memory_mb=resident_mb(), model=self._model(), queries=self._queries()
        )
        pipe = self._redis.pipeline(transaction=False)
        pipe.set(self._keys.process(self._id), msgspec.json.encode(told), px=KEEP_MS)
        pipe.zadd(self._keys.processes, {self._id: now_ms})
        pipe.zremrangebyscore(self._keys.processes, "-inf", now_ms - INDEX_MS)
        pipe.zremrangebyrank(self._keys.processes, 0, -PROCESSES_MAX - 1)
        pipe.execute()

    def _take_back(self) -> None:
        pipe = self._redis.pipeline(transaction=False)
        pipe.delete(self._keys.process(self._id))
        pipe.zrem(self._keys.processes, self._id)
        pipe.execute()


async def read_processes(client: redis.asyncio.Redis, keys: Keys) -> list[tuple[Process, float]]:
    """Every process heard of within a minute, by role and name, and the seconds since its last word.

    A word that cannot be read, as another version may say it, is passed over.
    """
    ids = cast("list[str]", await client.zrange(keys.processes, 0, -1))
    pipe = client.pipeline(transaction=False)
    for one in ids:
        pipe.get(keys.process(one))
        pipe.pttl(keys.process(one))
    answers: list[Any] = await pipe.execute() if ids else []
    found: list[tuple[Process, float]] = []
    for raw, left_ms in zip(answers[::2], answers[1::2], strict=True):
        if raw is not None:
            with contextlib.suppress(msgspec.DecodeError):
                found.append((msgspec.json.decode(raw, type=Process), max(0.0, KEEP_MS - left_ms) / 1e3))
    return sorted(found, key=lambda pair: (pair[0].role, pair[0].name, pair[0].since))


def code_version() -> str:
    """Version of the installed package; empty where it runs from a bare folder."""
    try:
        return metadata.version("recsys-moe")
    except metadata.PackageNotFoundError:
        return ""


def resident_mb() -> float:
    """Resident memory of this process in 10^6 bytes; where the system does not tell, the most it ever was."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 1e6 if sys.platform == "darwin" else most * 1_024 / 1e6
    return pages * resource.getpagesize() / 1e6
