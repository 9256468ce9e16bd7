"""The bounded queue between the socket and the device.

Every request that enters leaves exactly once: in a batch, refused, or expired. Interactive requests go before batch
ones, and a full queue gives up a waiting batch request before it refuses an interactive one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from recsys.wire import FromEngine, RankRequest, Similar

Addressed = tuple[Any, FromEngine]  # who is answered, and what


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request on its way. Times are seconds of the engine's monotonic clock; `asker` is who gets the answer."""

    asker: Any
    request: RankRequest | Similar
    arrived_s: float
    deadline_s: float

    @property
    def policy(self) -> str | None:
        """Policy asked for by this request alone."""
        return self.request.policy if isinstance(self.request, RankRequest) else None

    @property
    def lane(self) -> int:
        """0 = interactive, 1 = batch."""
        return 1 if isinstance(self.request, RankRequest) and self.request.priority > 0 else 0


class AdmissionQueue:
    """Bounded two-lane queue; `offer` from any thread, `take` from one."""

    def __init__(self, longest: int) -> None:
        if longest < 1:
            raise ValueError(f"longest: {longest}, must be at least 1")
        self._longest = longest
        self._lanes: tuple[deque[Ticket], deque[Ticket]] = (deque(), deque())
        self._lock = threading.Lock()
        self._closed = False

    def __len__(self) -> int:
        return len(self._lanes[0]) + len(self._lanes[1])

    def ahead_of(self, ticket: Ticket) -> int:
        """Requests that would be taken before this one."""
        return len(self) if ticket.lane else len(self._lanes[0])

    def offer(self, ticket: Ticket) -> Ticket | None:
        """Queue a ticket. Returns the ticket that has to be refused instead: this one, an evicted one, or none."""
        with self._lock:
            if self._closed:
                return ticket
            evicted = None
            if len(self) >= self._longest:
                if ticket.lane or not self._lanes[1]:
                    return ticket
                evicted = self._lanes[1].pop()
            self._lanes[ticket.lane].append(ticket)
            return evicted

    def take(
        self, most: int, *, now_s: float, step_s: Callable[[int], float] = lambda requests: 0.0
    ) -> tuple[list[Ticket], list[Ticket]]:
        """What is there now, without waiting: (batch, expired).

        A batch has one policy; requests for another stay, in order, for the next call. It grows only while a step of
        that size, `step_s`, meets the earliest deadline in it.
        """
        batch: list[Ticket] = []
        expired: list[Ticket] = []
        earliest_s = inf
        with self._lock:
            for lane in self._lanes:
                stay: list[Ticket] = []
                while lane and len(batch) < most:
                    ticket = lane.popleft()
                    if ticket.deadline_s <= now_s:
                        expired.append(ticket)
                    elif batch and now_s + step_s(len(batch) + 1) > min(earliest_s, ticket.deadline_s):
                        stay.append(ticket)
                        most = len(batch)
                    elif not batch or ticket.policy == batch[0].policy:
                        batch.append(ticket)
                        earliest_s = min(earliest_s, ticket.deadline_s)
                    else:
                        stay.append(ticket)
                lane.extendleft(reversed(stay))
        return batch, expired

    def close(self) -> None:
        """Refuse everything from now on; what is queued stays to be taken."""
        with self._lock:
            self._closed = True

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed
