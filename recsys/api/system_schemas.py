"""Answers about the parts of the service: its processes, the stream, the dead letters, Redis."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class QueryCountsAnswer(BaseModel):
    """Queries of one API process since it started; rates are the differences of two answers over those of `ts`."""

    answered: int = Field(description="`POST /v1/recommendations` answered, with popular items too")
    fallback: int = Field(description="Of them, from popular items")
    refused: int = Field(description="Answered 503, by this process or by an engine behind it")
    turned_away: int = Field(description="Of them, by this process before it read the body")
    limited: int = Field(description="Calls of `/v1` beyond their caller's rate (429)")


class ProcessAnswer(BaseModel):
    """One process, as it speaks of itself every second. Memory is resident, in 10^6 bytes."""

    role: Literal["api", "engine", "worker", "learner"]
    name: str
    host: str
    pid: int
    version: str = Field(description="Version of the code")
    model: str = Field(description="Model version that it serves or learns; empty without one")
    memory_mb: float
    since: int = Field(description="Unix ms when it started, by its own clock")
    ts: int = Field(description="Unix ms of its last word, by its own clock")
    heard_s: float = Field(description="Seconds since its last word, by Redis' clock")
    present: bool = Field(description="Heard within five seconds; the silent are forgotten after a minute")
    queries: QueryCountsAnswer | None = Field(default=None, description="What an API process did")


class GroupAnswer(BaseModel):
    """One consumer group of the event stream."""

    name: str
    consumers: int = Field(description="Consumers that it knows, those that died a while ago too")
    waiting: int | None = Field(description="Entries not yet delivered; null where Redis lost count")
    pending: int = Field(description="Entries delivered and not acknowledged")
    behind_s: float = Field(description="From the oldest entry that waits to the newest one")


class StreamAnswer(BaseModel):
    """The event stream."""

    entries: int = Field(description="Applied entries that are kept are among them")
    groups: list[GroupAnswer]


class DeadLettersAnswer(BaseModel):
    """Entries that could not be applied, without what they hold."""

    count: int
    newest_ms: int | None = Field(default=None, description="Unix ms when the newest one was put aside")
    reasons: dict[str, int] = Field(
        default={},
        description="Of the newest hundred, by what is wrong: a field of the event, `delivery`, or `other`",
    )


class RedisAnswer(BaseModel):
    """The Redis server. Memory in 10^6 bytes."""

    version: str
    memory_mb: float
    memory_max_mb: float | None = Field(description="Its bound; null = none")
    since: int = Field(description="Unix ms when it started, to the second")


class SystemAnswer(BaseModel):
    """The parts of the service, at most half a second old."""

    processes: list[ProcessAnswer]
    stream: StreamAnswer
    dead_letters: DeadLettersAnswer
    redis: RedisAnswer


class DeadLetterAnswer(BaseModel):
    """One entry that could not be applied; bytes that are not UTF-8 are escaped."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "1763820000000-0",
                    "source_id": "1763819999990-0",
                    "reason": "kind: 'loved' is not one of view, click, like, purchase, hide",
                    "fields": {"type": "interaction", "user_id": "u1", "item_id": "i7", "kind": "loved"},
                }
            ]
        }
    )

    id: str
    source_id: str = Field(description="Entry of the event stream that it was")
    reason: str
    fields: dict[str, str]


class DeadLetterList(BaseModel):
    """The newest dead letters, newest first."""

    count: int = Field(description="All that there are")
    letters: list[DeadLetterAnswer]
