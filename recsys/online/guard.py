"""Is what was learned better than what is served? Asked of every event before it is learned from.

Progressive validation (Blum, Kalai and Langford, COLT 1999): such events are as good as a test that nobody trained on.
"""

from __future__ import annotations

from collections import deque

from recsys.online.student import Judged
from recsys.training.metrics import gains


class Guard:
    """Compares the two models over the newest events.

    Args:
        window: events that are looked back on.
        tolerance: relative loss of NDCG that is taken for chance.
    """

    def __init__(self, window: int, tolerance: float) -> None:
        self._gains: deque[tuple[float, float]] = deque(maxlen=window)
        self._tolerance = tolerance

    def see(self, judged: Judged) -> None:
        """Take in some events."""
        self._gains.extend(zip(gains(judged.served_B).tolist(), gains(judged.student_B).tolist(), strict=True))

    def clear(self) -> None:
        """Start again: one of the two models is another now."""
        self._gains.clear()

    def __len__(self) -> int:
        return len(self._gains)

    @property
    def served(self) -> float:
        """NDCG, without a cut, of the served model."""
        return sum(served for served, _ in self._gains) / max(1, len(self._gains))

    @property
    def student(self) -> float:
        """The same of what was learned."""
        return sum(student for _, student in self._gains) / max(1, len(self._gains))

    @property
    def holds(self) -> bool:
        """Whether what was learned is no worse."""
        return self.student >= self.served * (1 - self._tolerance)
