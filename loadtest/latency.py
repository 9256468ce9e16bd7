"""Quantiles of latencies in bounded memory."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

FLOOR_MS = 0.01
CEILING_MS = 3_600_000.0
GROWTH = 1.01


class LatencyHistogram:
    """Counts of latencies in buckets that grow by 1 %, so that a quantile is within 1 % at any scale.

    Holds at most some 2,700 counters however long the run.
    """

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.max_ms = 0.0

    def record(self, ms: float) -> None:
        """Count one latency in milliseconds."""
        bounded = min(max(ms, FLOOR_MS), CEILING_MS)
        self._buckets[math.ceil(math.log(bounded / FLOOR_MS, GROWTH))] += 1
        self.count += 1
        self.max_ms = max(self.max_ms, ms)

    def packed(self) -> dict[str, Any]:
        """Plain numbers, for another process to add."""
        return {"buckets": list(self._buckets.items()), "max_ms": self.max_ms}

    def add(self, packed: dict[str, Any]) -> None:
        """Count also what another process has recorded."""
        for bucket, count in packed["buckets"]:
            self._buckets[bucket] += count
            self.count += count
        self.max_ms = max(self.max_ms, packed["max_ms"])

    def quantile(self, q: float) -> float | None:
        """Upper edge in milliseconds of the bucket with the `q` quantile; None if nothing was recorded."""
        rank = max(math.ceil(q * self.count), 1)
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return min(FLOOR_MS * GROWTH**bucket, self.max_ms)
        return None

    def to_json(self) -> dict[str, float | None]:
        """p50, p95, p99 and the maximum, in milliseconds."""
        quantiles = {f"p{q}": self.quantile(q / 100) for q in (50, 95, 99)} | {
            "max": self.max_ms if self.count else None
        }
        return {name: None if ms is None else round(ms, 3) for name, ms in quantiles.items()}
