"""Coroutines that await nothing but futures, run without a task.

A task costs a turn of the event loop before it begins, a copy of the context and a place in two sets. Who runs here has
no `asyncio.current_task()`, so `asyncio.timeout` and what uses it belong in a task that is awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Generic, TypeVar

T = TypeVar("T")


class Stepping(Generic[T]):
    """Runs a coroutine that raises nothing: its first part at once, the rest as the futures that it awaits are done.

    Args:
        coroutine: awaits futures (tasks are futures) of the running event loop.
        done: gets what it returns.
    """

    __slots__ = ("_coroutine", "_done")

    def __init__(self, coroutine: Coroutine[asyncio.Future[object], None, T], done: Callable[[T], None]) -> None:
        self._coroutine = coroutine
        self._done = done
        self._step()

    def _step(self, _: object = None) -> None:
        try:
            awaited = self._coroutine.send(None)
        except StopIteration as end:
            self._done(end.value)
        else:
            awaited.add_done_callback(self._step)
