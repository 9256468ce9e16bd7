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
        self._ring: deque[tuple[float, int, Query]] = deque()  # came, ids, query
        self._ids = 0
        self._expiring: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, query: Query) -> None:
        """Remember a query."""
        if self._expiring is None:
            self._expiring = asyncio.get_running_loop().call_later(KEPT_S, self._expire)
        ids = 1 + len(query.history or ()) + len(query.candidates or ()) + len(query.exclude_items)
        self._ring.append((time.monotonic(), ids, query))
        self._ids += ids
        while len(self._ring) > KEPT or self._ids > IDS_KEPT:
            self._ids -= self._ring.popleft()[1]

    def within(self, seconds: float) -> list[Query]:
        """Those of the last `seconds`, oldest first."""
        since_s = time.monotonic() - min(seconds, KEPT_S)
        return [query for came_s, _, query in self._ring if came_s >= since_s]

    def forget(self, user_id: str) -> None:
        """Drop what a user asked; other processes drop it when it is old."""
        kept = [entry for entry in self._ring if entry[2].user_id != user_id]
        self._ids = sum(ids for _, ids, _ in kept)
        self._ring.clear()
        self._ring.extend(kept)

    def _expire(self) -> None:
        """Drop what is old, and come back for the rest."""
        now_s = time.monotonic()
        while self._ring and self._ring[0][0] <= now_s - KEPT_S:
            self._ids -= self._ring.popleft()[1]
        self._expiring = None
        if self._ring:
            left_s = self._ring[0][0] + KEPT_S - now_s
            self._expiring = asyncio.get_running_loop().call_later(left_s, self._expire)
