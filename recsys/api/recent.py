"""The newest queries of this process, in bounded memory and for two minutes: a sample of the traffic to ask again."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from recsys.api.query import Query

KEPT = 512
KEPT_S = 120.0
IDS_KEPT = 50_000  # named by all of them: one query may name thousands


class RecentQueries:
    """A ring of the newest queries. Within one event loop."""

    def __init__(self) -> None:
        self._ring: deque[tuple[float, Query]] = deque()
        self._ids = 0
        self._expiring: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, query: Query) -> None:
        """Remember a query."""
        if self._expiring is None:
            self._expiring = asyncio.get_running_loop().call_later(KEPT_S, self._expire)
        self._ring.append((time.monotonic(), query))
        self._ids += _ids(query)
        while len(self._ring) > KEPT or self._ids > IDS_KEPT:
            self._ids -= _ids(self._ring.popleft()[1])

    def within(self, seconds: float) -> list[Query]:
        """Those of the last `seconds`, oldest first."""
        since_s = time.monotonic() - min(seconds, KEPT_S)
        return [query for came_s, query in self._ring if came_s >= since_s]

    def forget(self, user_id: str) -> None:
        """Drop what a user asked; other processes drop it when it is old."""
        kept = [(came_s, query) for came_s, query in self._ring if query.user_id != user_id]
        self._ids = sum(_ids(query) for _, query in kept)
        self._ring.clear()
        self._ring.extend(kept)

    def _expire(self) -> None:
        """Drop what is old, and come back for the rest."""
        now_s = time.monotonic()
        while self._ring and self._ring[0][0] <= now_s - KEPT_S:
            self._ids -= _ids(self._ring.popleft()[1])
        self._expiring = None
        if self._ring:
            left_s = self._ring[0][0] + KEPT_S - now_s
            self._expiring = asyncio.get_running_loop().call_later(left_s, self._expire)


def _ids(query: Query) -> int:
    lists = (query.history, query.candidates, query.exclude_items)
    return 1 + sum(len(ids) for ids in lists if ids is not None)
