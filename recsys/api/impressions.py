"""What was shown is an event too: written behind the answer, bounded, dropped and counted rather than waited for."""

from __future__ import annotations

import asyncio
import contextlib
import time

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from recsys.api.ending import end
from recsys.errors import UnavailableError
from recsys.events.producer import EventProducer
from recsys.events.schema import Impression

log = structlog.get_logger(__name__)

BATCH = 100
FLUSH_EVERY_S = 0.05


class ImpressionWriter:
    """Queues impressions and writes them in batches. Within one event loop: `start`, `add`, `close`."""

    def __init__(self, producer: EventProducer, *, longest: int, dropped: Counter) -> None:
        self._producer = producer
        self._queue: asyncio.Queue[Impression] = asyncio.Queue(longest)
        self._dropped = dropped
        self._task: asyncio.Task[None] | None = None

    def add(self, request_id: str, user_id: str, items: tuple[str, ...]) -> None:
        """Remember what one answer showed. Never waits."""
        now = int(time.time() * 1e3)
        event = Impression(event_id=f"imp-{request_id}", request_id=request_id, user_id=user_id, items=items, ts=now)
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._dropped.inc()

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="impressions")

    async def close(self) -> None:
        """Write what is queued, for at most a second, and stop."""
        if self._task is None:
            return
        await end(self._task)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while not self._queue.empty():
                    await self._write()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            while not self._queue.empty():
                await self._write()

    async def _write(self) -> None:
        batch = [self._queue.get_nowait() for _ in range(min(BATCH, self._queue.qsize()))]
        try:
            await self._producer.add(batch)
        except (RedisError, UnavailableError) as error:
            self._dropped.inc(len(batch))
            log.warning("impressions_dropped", count=len(batch), error=str(error))
