"""An answer that costs something, kept for a while: one caller at a time makes it, others get what was made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

FAILURE_S = 5.0  # or those who wait for it would each try in turn


class KeptAnswer(Generic[T]):
    """Within one event loop.

    Args:
        fresh_s: how long an answer is kept, from when it was ready; a failure for `FAILURE_S` at most.
    """

    def __init__(self, fresh_s: float) -> None:
        self._fresh_s = fresh_s
        self._making = asyncio.Lock()
        self._kept: tuple[float, T] | None = None
        self._failed: tuple[float, Exception] | None = None

    async def get(self, make: Callable[[], Awaitable[T]]) -> T:
        """The answer kept, or a new one; raises what `make` raises, or raised a moment ago."""
        async with self._making:
            if self._kept is not None and time.monotonic() - self._kept[0] <= self._fresh_s:
                return self._kept[1]
            if self._failed is not None and time.monotonic() - self._failed[0] <= min(self._fresh_s, FAILURE_S):
                raise self._failed[1].with_traceback(None)
            try:
                answer = await make()
            except Exception as error:
                self._failed = time.monotonic(), error
                raise
            self._kept = time.monotonic(), answer
            return answer
