"""Whether a request can still be answered in time, told before its body is read.

What waits in sockets for a busy event loop is a queue that nobody counts: deadlines start only when a request is read.
So two things are measured here: how late the loop is, and (by Little's law) what one more request in flight costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

TICK_S = 0.01
FORGET = 0.05


class Congestion:
    """Requests in flight and what they cost. Use within one event loop.

    Args:
        free: that many requests in flight are always let in, or a bad estimate would stay for ever.
    """

    def __init__(self, free: int) -> None:
        self._free = free
        self._in_flight = 0
        self._per_request_s = 0.0
        self._late_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch the loop."""
        self._task = asyncio.create_task(self._watch(), name="congestion")

    async def close(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def wait_s(self) -> float:
        """Expected time until a request that is read now is answered."""
        return self._late_s + (self._in_flight + 1) * self._per_request_s

    def admits(self, budget_s: float) -> bool:
        """Whether a request with that much time has a chance."""
        return self._in_flight < self._free or self.wait_s <= budget_s

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Around the work on one request."""
        self._in_flight += 1
        ahead, began = self._in_flight, time.monotonic()
        try:
            yield
        finally:
            self._in_flight -= 1
            self._per_request_s += FORGET * ((time.monotonic() - began) / ahead - self._per_request_s)

    async def _watch(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(TICK_S)
            late_s = time.monotonic() - began - TICK_S
            self._late_s += (0.5 if late_s > self._late_s else 0.1) * (late_s - self._late_s)
