"""What `/v1/system` and `/v1/dead-letters` answer, as far as the board reads it; see `answers.py`."""

from __future__ import annotations

import msgspec


class QueryCounts(msgspec.Struct, frozen=True):
    """Queries of one API process since it started; `turned_away` (before the body was read) is part of `refused`."""

    answered: int
    fallback: int
    refused: int
    turned_away: int
    limited: int


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process: `since` and `ts` (its last word) in Unix ms by its own clock, `heard_s` seconds since then."""

    role: str
    name: str
    host: str
    pid: int
    version: str
    model: str
    memory_mb: float
    since: int
    ts: int
    heard_s: float
    present: bool
    queries: QueryCounts | None = None


class Group(msgspec.Struct, frozen=True):
    """One consumer group of the event stream, in entries; `waiting` is unknown where Redis lost count."""

    name: str
    consumers: int
    waiting: int | None
    pending: int
    behind_s: float


class Stream(msgspec.Struct, frozen=True):
    """The event stream."""

    entries: int
    groups: list[Group]


class DeadLetters(msgspec.Struct, frozen=True):
    """Entries that could not be applied, and what is wrong with the newest hundred."""

    count: int
    newest_ms: int | None = None
    reasons: dict[str, int] = {}


class RedisServer(msgspec.Struct, frozen=True):
    """The store."""

    version: str
    memory_mb: float
    since: int
    memory_max_mb: float | None = None


class System(msgspec.Struct, frozen=True):
    """The parts of the service."""

    processes: list[Process]
    stream: Stream
    dead_letters: DeadLetters
    redis: RedisServer


class DeadLetter(msgspec.Struct, frozen=True):
    """One entry that could not be applied."""

    id: str
    source_id: str
    reason: str
    fields: dict[str, str]


class DeadLetterList(msgspec.Struct, frozen=True):
    """The newest ones."""

    count: int
    letters: list[DeadLetter]
