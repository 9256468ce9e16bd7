"""The newest queries of this process, in bounded memory: a sample of the traffic to ask again."""

from __future__ import annotations

import time
from collections import deque

from recsys.api.query import Query

KEPT = 512
KEPT_S = 120.0


class RecentQueries:
    """A ring of the newest queries; what is older than two minutes is forgotten when the next one comes."""

    def __init__(self) -> None:
        self._ring: deque[tuple[float, Query]] = deque(maxlen=KEPT)

    def add(self, query: Query) -> None:
        """Remember a query."""
        now_s = time.monotonic()
        self._ring.append((now_s, query))
        while self._ring[0][0] < now_s - KEPT_S:
            self._ring.popleft()

    def within(self, seconds: float) -> list[Query]:
        """Those of the last `seconds`, oldest first."""
        since_s = time.monotonic() - min(seconds, KEPT_S)
        return [query for came_s, query in self._ring if came_s >= since_s]
