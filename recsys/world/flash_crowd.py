"""A flash crowd: for a while everybody wants one category."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from recsys.errors import InputError
from recsys.world.config import WorldConfig

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashCrowd:
    """A category's pull is multiplied by `factor` in `start_ms <= t < end_ms` (Unix ms).

    It takes everybody along: a user who does not care for the category counts as one with an average interest.

    Raises:
        InputError: an empty window or a factor below 1.
    """

    category: str
    start_ms: int
    end_ms: int
    factor: float = 20.0

    def __post_init__(self) -> None:
        if self.end_ms <= self.start_ms:
            raise InputError(f"end_ms: {self.end_ms} is not after start_ms {self.start_ms}", field="end_ms")
        if not 1 <= self.factor <= 1e6:
            raise InputError(f"factor: {self.factor} is not from 1 to 1e6", field="factor")

    @classmethod
    def within_history(cls, config: WorldConfig, *, days: float, now_ms: int) -> Self:
        """Six hours (at most a tenth of the history) of the category that the seed chooses, at 70 % of the history."""
        start_ms = now_ms - int(0.3 * days * _DAY_MS)
        length_ms = max(1, min(6 * _HOUR_MS, int(0.1 * days * _DAY_MS)))
        names = config.category_names
        return cls(category=names[config.seed % len(names)], start_ms=start_ms, end_ms=start_ms + length_ms)
