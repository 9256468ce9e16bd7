"""An answer that costs something, kept for a while: one caller at a time makes it, others get what was made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class KeptAnswer(Generic[T]):
    """Within one event loop.

    Args:
        fresh_s: how long an answer is kept, from when it was ready. A failure is not kept.
    """

    def __init__(self, fresh_s: float) -> None:
        self._fresh_s = fresh_s
        self._making = asyncio.Lock()
        self._kept: tuple[float, T] | None = None

    async def get(self, make: Callable[[], Awaitable[T]]) -> T:
        """The answer kept, or a new one; raises what `make` raises."""
        async with self._making:
            if self._kept is None or time.monotonic() - self._kept[0] > self._fresh_s:
                answer = await make()
                self._kept = time.monotonic(), answer
            return self._kept[1]
