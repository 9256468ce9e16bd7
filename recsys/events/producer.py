"""Writes events to the stream: the API one call at a time, replays and imports in bulk.

A write whose reply did not come may or may not have happened. It is repeated with the same `event_id`, so that it
takes effect once. Both producers refuse work when too much is waiting to be applied.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, cast

import redis
import redis.asyncio

from recsys.config import Settings
from recsys.errors import OverloadedError, UnavailableError
from recsys.events.backlog import count_backlog, read_backlog
from recsys.events.schema import Event, to_fields
from recsys.state.client import writer
from recsys.state.keys import Keys

_REFRESH_S = 0.1
_RETRY_AFTER_S = 1.0


class EventProducer:
    """Writes events for the API, asynchronously."""

    def __init__(self, client: redis.asyncio.Redis, keys: Keys, *, group: str, backlog_max: int) -> None:
        self._client = client
        self._keys = keys
        self._group = group
        self._backlog_max = backlog_max
        self._backlog = 0
        self._backlog_read_s = -_REFRESH_S
        self._refreshing = asyncio.Lock()

    async def add(self, events: Sequence[Event]) -> list[str]:
        """Write events in order and return their stream ids; they are in the stream when this returns.

        Raises:
            OverloadedError: too many accepted events are still waiting to be applied; none of these was written.
            UnavailableError: Redis did not answer; sending the same events again is harmless.
        """
        if not events:
            return []
        waiting = await self.backlog()
        if waiting + len(events) > self._backlog_max:
            raise OverloadedError(
                f"{waiting} events wait to be applied, at most {self._backlog_max}", retry_after_s=_RETRY_AFTER_S
            )
        fields = [to_fields(event) for event in events]
        self._backlog += len(events)  # until the next look, as if nothing were applied
        try:
            return await self._write(fields)
        except (redis.ConnectionError, redis.TimeoutError):
            return await self._write_again(fields)
        except redis.RedisError as error:  # out of memory, read-only, ...
            raise _unavailable(error) from error

    async def seen(self, event_ids: Sequence[str]) -> set[str]:
        """Those ids that were applied within the de-duplication window.

        An event still on its way is not among them: the worker finds it, and it takes effect once all the same.
        """
        if not event_ids:
            return set()
        try:
            applied = await self._client.zmscore(self._keys.dedup, list(event_ids))
        except redis.RedisError as error:
            raise _unavailable(error) from error
        return {event_id for event_id, at in zip(event_ids, applied, strict=True) if at is not None}

    async def backlog(self) -> int:
        """Entries not yet applied, as of at most 100 ms ago, and those that this producer has written since."""
        if time.monotonic() - self._backlog_read_s >= _REFRESH_S and not self._refreshing.locked():
            async with self._refreshing:
                await self._refresh()
        return self._backlog

    async def _refresh(self) -> None:
        pipe = self._client.pipeline(transaction=False)
        pipe.xinfo_groups(self._keys.events)
        pipe.xlen(self._keys.events)
        try:
            groups, length = await pipe.execute(raise_on_error=False)
        except redis.RedisError as error:
            raise _unavailable(error) from error
        if isinstance(length, redis.RedisError):
            raise _unavailable(length)
        no_stream = isinstance(groups, redis.ResponseError)
        self._backlog = 0 if no_stream else count_backlog(groups, int(length), self._group)
        self._backlog_read_s = time.monotonic()

    async def _write(self, fields: Sequence[Mapping[str, str]]) -> list[str]:
        pipe = self._client.pipeline(transaction=False)
        for entry in fields:
            pipe.xadd(self._keys.events, cast("dict[Any, Any]", entry))
        return [str(entry_id) for entry_id in await pipe.execute()]

    async def _write_again(self, fields: Sequence[Mapping[str, str]]) -> list[str]:
        try:
            return await self._write(fields)
        except redis.RedisError as error:
            raise _unavailable(error) from error


class BulkProducer:
    """Writes many events, synchronously: bounded pipelines, and a pause whenever the workers fall behind."""

    PIPELINE = 500

    def __init__(
        self, settings: Settings, *, backlog_max: int = 50_000, stall_s: float = 60.0, client: redis.Redis | None = None
    ) -> None:
        """`backlog_max` entries may wait to be applied; if none is applied for `stall_s` seconds, give up."""
        self._client = client or writer(settings.redis)
        self._keys = Keys(settings.redis.prefix)
        self._group = settings.events.group
        self._backlog_max = min(backlog_max, settings.events.backlog_max)
        self._stall_s = stall_s
        self._pause_max_s = settings.events.reconnect_max_s

    def publish(
        self,
        entries: Iterable[Mapping[str, str]],
        progress: Callable[[int], object] | None = None,
        *,
        pipeline: int = PIPELINE,
    ) -> int:
        """Write entries in order, `pipeline` at a time; returns how many.

        `progress` is called with the number written so far.

        Entries without `event_id` get one, so that a write repeated after a lost connection takes effect once.

        Raises:
            OverloadedError: nothing was applied for `stall_s` seconds although entries wait: no worker runs.
            UnavailableError: Redis did not answer for `stall_s` seconds.
        """
        written = 0
        for batch in _batches(_with_ids(entries), pipeline):
            self._wait_until_backlog(max(self._backlog_max - len(batch), 0))
            self._persist(partial(self._write, batch))
            written += len(batch)
            if progress is not None:
                progress(written)
        return written

    def wait_until_applied(self) -> None:
        """Return when nothing waits to be applied.

        Raises:
            OverloadedError, UnavailableError: as `publish`.
        """
        self._wait_until_backlog(0)

    def _wait_until_backlog(self, allowed: int) -> None:
        least, since = None, time.monotonic()
        while (waiting := self._persist(self._read_backlog)) > allowed:
            if least is None or waiting < least:
                least, since = waiting, time.monotonic()
            if time.monotonic() - since > self._stall_s:
                raise OverloadedError(
                    f"{waiting} events wait and none was applied for {self._stall_s:g} s: is a worker running?"
                )
            time.sleep(0.005)

    def _read_backlog(self) -> int:
        return read_backlog(self._client, self._keys, self._group)

    def _write(self, batch: Sequence[Mapping[str, str]]) -> int:
        pipe = self._client.pipeline(transaction=False)
        for entry in batch:
            pipe.xadd(self._keys.events, cast("dict[Any, Any]", entry))
        return len(pipe.execute())

    def _persist(self, command: Callable[[], int]) -> int:
        """Repeat a command while Redis is away, with growing pauses, for at most `stall_s` seconds."""
        deadline = time.monotonic() + self._stall_s
        pause_s = 0.05
        while True:
            try:
                return command()
            except redis.RedisError as error:
                if time.monotonic() > deadline:
                    raise _unavailable(error) from error
            time.sleep(random.uniform(pause_s / 2, pause_s))
            pause_s = min(2 * pause_s, self._pause_max_s)


def _with_ids(entries: Iterable[Mapping[str, str]]) -> Iterator[Mapping[str, str]]:
    run = uuid.uuid4().hex
    for n, entry in enumerate(entries):
        yield entry if entry.get("event_id") else {**entry, "event_id": f"{run}-{n}"}


def _batches(entries: Iterator[Mapping[str, str]], size: int) -> Iterator[list[Mapping[str, str]]]:
    while batch := list(islice(entries, size)):
        yield batch


def _unavailable(error: Any) -> UnavailableError:
    return UnavailableError(f"Redis did not take the events: {error}", retry_after_s=_RETRY_AFTER_S)
