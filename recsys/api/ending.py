"""The end of a task that would run for ever."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN_S = 0.1


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it is over: before Python 3.12 `asyncio.wait_for` may swallow a cancellation that comes just
    when what it waits for is done, and clients of Redis use it while they connect.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_S)
