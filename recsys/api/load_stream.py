"""Load snapshots as they appear: one reader of the telemetry stream per process, any number of bounded listeners."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import structlog
from redis.exceptions import RedisError

from recsys.api.ending import end
from recsys.errors import OverloadedError
from recsys.state.telemetry import TelemetryReader

log = structlog.get_logger(__name__)

READ_EVERY_S = 0.1
RETRY_S = 1.0
KEEP_ALIVE_S = 10.0
WAITING_MAX = 64  # snapshots a listener may be behind: 16 s of one engine


class LoadStream:
    """Hands each new snapshot to every listener. Within one event loop: `start`, `listen`, `close`.

    Args:
        telemetry: where engines publish.
        listeners_max: streams at once; one more is refused.
    """

    def __init__(self, telemetry: TelemetryReader, *, listeners_max: int) -> None:
        self._telemetry = telemetry
        self._listeners_max = listeners_max
        self._queues: set[asyncio.Queue[bytes | None]] = set()
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def listeners(self) -> int:
        """Streams that are open."""
        return len(self._queues)

    def start(self) -> None:
        """Begin to read, as soon as somebody listens."""
        self._task = asyncio.create_task(self._run(), name="load-stream")

    async def close(self) -> None:
        """End every stream."""
        if self._task is not None:
            await end(self._task)
        for queue in list(self._queues):
            self._drop(queue)

    def listen(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events from now on, with comments in between so that a silent line is not taken for dead.

        A listener that falls `WAITING_MAX` snapshots behind is cut off: it may come again.

        Raises:
            OverloadedError: `listeners_max` are listening already.
        """
        if len(self._queues) >= self._listeners_max:
            raise OverloadedError(f"{self._listeners_max} streams are open already", retry_after_s=5.0)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(WAITING_MAX)
        self._queues.add(queue)  # at once: a place is taken before the first byte is sent
        self._wanted.set()
        return self._events(queue)

    async def _events(self, queue: asyncio.Queue[bytes | None]) -> AsyncGenerator[bytes, None]:
        try:
            yield b": load snapshots, one event each\nretry: 1000\n\n"
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        event = await queue.get()
                except TimeoutError:
                    event = b": nothing new\n\n"
                if event is None:
                    return
                yield event
        finally:
            self._queues.discard(queue)

    async def _run(self) -> None:
        last = ""
        while True:
            if not self._queues:
                self._wanted.clear()
                last = ""
                await self._wanted.wait()
            try:
                last = last or await self._telemetry.last_id()
                for entry_id, raw in await self._telemetry.after(last):
                    last = entry_id
                    self._hand_out(f"event: load\nid: {entry_id}\ndata: {raw}\n\n".encode())
                await asyncio.sleep(READ_EVERY_S)
            except RedisError as error:
                log.warning("load_stream_unread", error=str(error))
                await asyncio.sleep(RETRY_S)

    def _hand_out(self, event: bytes) -> None:
        for queue in list(self._queues):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._drop(queue)

    def _drop(self, queue: asyncio.Queue[bytes | None]) -> None:
        """Forget what waits and end the stream."""
        self._queues.discard(queue)
        with contextlib.suppress(asyncio.QueueEmpty):
            while True:
                queue.get_nowait()
        queue.put_nowait(None)
