"""What a micro-batch of n requests takes, learnt while serving: admission and batch sizes follow from it."""

from __future__ import annotations

from bisect import bisect_right
from math import inf

WEIGHT = 0.1  # of a new observation
STALE = 50  # observations after which a size counts as not seen for a while
OUTLIER = 4.0  # times the mean: what one pause of the machine may count at most


class ServiceTime:
    """Moving mean of (requests, seconds) for sizes 1, 2, 3-4, 5-8, ..., and straight lines between them.

    A line through all sizes would forget what large batches cost while there are only small ones. But what was not
    seen for a while is never taken to cost more than smaller steps would that were: else one bad measurement of a size
    would keep it from ever being tried again. One writer; readers in other threads see the old table or the new one.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._means: dict[int, tuple[float, float]] = {}
        self._seen: dict[int, int] = {}  # size -> when, counted in observations
        self._count = 0
        self._seconds = [0.0] * (most + 1)

    def observe(self, requests: int, seconds: float) -> None:
        """One finished step."""
        size = (requests - 1).bit_length()
        n, s = self._means.get(size, (float(requests), seconds))
        seconds = min(seconds, OUTLIER * s)
        self._means[size] = n + WEIGHT * (requests - n), s + WEIGHT * (seconds - s)
        self._count += 1
        self._seen[size] = self._count
        self._seconds = self._table()

    def step_s(self, requests: int) -> float:
        """Expected seconds of a step of that many requests, at most `most`; 0 before the first observation."""
        return self._seconds[min(requests, self._most)]

    def wait_s(self, requests: int, batch: int) -> float:
        """Expected seconds until the last of that many requests is answered, `batch` at a time."""
        steps, rest = divmod(requests, batch)
        return steps * self.step_s(batch) + (self.step_s(rest) if rest else 0.0)

    def largest(self, within_s: float) -> int:
        """Most requests whose step takes no longer than that; at least 1."""
        return max(1, bisect_right(self._seconds, within_s) - 1)  # the table never falls

    def smallest(self, rate: float, most: int) -> int:
        """Fewest requests whose steps answer `rate` requests per second one after the other; `most` if none up to
        `most` do."""
        table = self._seconds
        return next((n for n in range(1, most) if n >= rate * table[n]), most)

    def _table(self) -> list[float]:
        points = [(0.0, 0.0), *(self._point(size) for size in sorted(self._means))]
        table, at = [0.0], 1
        for n in range(1, self._most + 1):
            while at < len(points) - 1 and points[at][0] < n:
                at += 1
            (n0, s0), (n1, s1) = points[at - 1], points[at]
            slope = max(0.0, (s1 - s0) / (n1 - n0))
            table.append(max(table[-1], s0 + slope * (n - n0)))
        return table

    def _point(self, size: int) -> tuple[float, float]:
        n, s = self._means[size]
        stale = self._seen[size] + STALE
        fresh = (self._means[other] for other in self._means if other < size and self._seen[other] > stale)
        return n, min(s, *(n * s_m / m for m, s_m in fresh), inf)
