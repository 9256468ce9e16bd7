"""How much of the gate's score a routing policy must keep to stay: watched over seconds, not over one bad batch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from recsys.wire import LoadSnapshot


@dataclass(frozen=True, slots=True)
class QualityBudget:
    """The bound that came with a switch of the policy.

    Attributes:
        switch: id of that switch.
        score_kept_min: least mean share of the gate's score, over tokens.
        seconds: time over which the mean is taken.
    """

    switch: str
    score_kept_min: float
    seconds: float


class BudgetWatch:
    """Sums what was kept over the last seconds of one budget."""

    def __init__(self, budget: QualityBudget, *, now_s: float) -> None:
        self.budget = budget
        self._since_s = now_s
        self._seen: deque[tuple[float, int, float]] = deque(maxlen=10_000)  # when, tokens, score kept

    def observe(self, snapshot: LoadSnapshot, *, now_s: float) -> float | None:
        """The mean score kept if the budget is broken, else None. Before a whole window has passed nothing is."""
        if snapshot.tokens and snapshot.layers:
            kept = sum(layer.score_kept for layer in snapshot.layers) / len(snapshot.layers)
            self._seen.append((now_s, snapshot.tokens, kept))
        while self._seen and self._seen[0][0] < now_s - self.budget.seconds:
            self._seen.popleft()
        tokens = sum(n for _, n, _ in self._seen)
        if now_s - self._since_s < self.budget.seconds or not tokens:
            return None
        kept = sum(n * kept for _, n, kept in self._seen) / tokens
        return kept if kept < self.budget.score_kept_min else None
