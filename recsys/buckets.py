"""Buckets of a histogram as Prometheus wants them, for those who count by themselves because that is cheaper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import inf

from prometheus_client.utils import floatToGoString


def cumulated(uppers: Sequence[float], counts: Iterable[int]) -> list[tuple[str, float]]:
    """(upper bound, values up to it) for counts per bucket; the last bucket has no bound."""
    names = map(floatToGoString, (*uppers, inf))
    return list(zip(names, map(float, accumulate(counts)), strict=True))
