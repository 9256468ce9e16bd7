"""Whether a request can still be answered in time, told before its body is read.

What waits in sockets for a busy event loop is a queue that nobody counts, though deadlines run in it. So three things
are measured here: how late the loop is, (by Little's law) what one more request in flight costs, and how many may be in
flight before an engine refuses one or the loop falls behind: a little more after each answer, a little less after a
refusal (additive increase, multiplicative decrease: Chiu & Jain 1989). What is refused here costs no hop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator

TICK_S = 0.01
LATE_SHARE = 0.02  # of the usual deadline: a loop that stays later than this has more to do than it can
STANDING = 3  # ticks that lateness must last to count: a pause passes, a crowd stands
FORGET = 0.05
MORE = 0.5  # per answer, over what may be in flight
LESS = 0.95  # of what is in flight may be, after an engine refused
LESS_EVERY_S = 0.01  # refusals of one moment count once


class Visit:
    """One request in flight."""

    __slots__ = ("refused",)

    def __init__(self) -> None:
        self.refused = False


class Congestion:
    """Requests in flight and what they cost. Use within one event loop.

    Args:
        free: that many requests in flight are always let in, or a bad estimate would stay for ever.
        deadline_s: usual time for an answer.

    Attributes:
        turned_away: requests that were not let in; counted by whoever refuses them.
    """

    def __init__(self, free: int, *, deadline_s: float) -> None:
        self.turned_away = 0
        self._free = free
        self._late_max_s = LATE_SHARE * deadline_s
        self._in_flight = 0
        self._most = float("inf")
        self._lessened_s = 0.0
        self._per_request_s = 0.0
        self._late_s: deque[float] = deque([0.0] * STANDING, maxlen=STANDING)
        self._ticks_s: tuple[float, float] | None = None  # when the last two began
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
        return min(self._late_s) + (self._in_flight + 1) * self._per_request_s

    @property
    def unread_s(self) -> float:
        """Longest time that a request which is read now can have waited in its socket while the loop stood still.

        The last whole tick counts too, as a loop that goes on may run a tick before it reads.
        """
        if self._ticks_s is None:
            return 0.0
        before_s, last_s = self._ticks_s
        return max(0.0, max(time.monotonic() - last_s, last_s - before_s) - TICK_S)

    def admits(self, budget_s: float) -> bool:
        """Whether a request with that much time has a chance."""
        return self._in_flight < self._free or (self._in_flight < self._most and self.wait_s <= budget_s)

    @contextlib.contextmanager
    def request(self) -> Iterator[Visit]:
        """Around the work on one request; its `refused` is to be set if an engine refused it."""
        self._in_flight += 1
        ahead, began, visit = self._in_flight, time.monotonic(), Visit()
        try:
            yield visit
        finally:
            now = time.monotonic()
            if visit.refused:
                self._lessen(now)
            else:
                self._per_request_s += FORGET * ((now - began) / ahead - self._per_request_s)
                self._most += MORE / self._most
            self._in_flight -= 1

    def _lessen(self, now: float) -> None:
        if now - self._lessened_s >= LESS_EVERY_S:
            self._lessened_s = now
            self._most = max(1.0, self._free, LESS * min(self._most, self._in_flight))

    async def _watch(self) -> None:
        while True:
            began = time.monotonic()
            self._ticks_s = (self._ticks_s[1] if self._ticks_s else began, began)
            await asyncio.sleep(TICK_S)
            self._late_s.append(time.monotonic() - began - TICK_S)
            if min(self._late_s) > self._late_max_s:
                self._lessen(time.monotonic())
