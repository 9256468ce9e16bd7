"""What changed from one list to the next; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Moves:
    """Places gained (positive) or lost per item that is in both lists, items that came, and items that went."""

    places: dict[str, int] = field(default_factory=dict)
    came: frozenset[str] = frozenset()
    went: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.came or self.went or any(self.places.values()))


def moves(before: Sequence[str], now: Sequence[str]) -> Moves:
    """Compare two lists of ids, best first."""
    rank = {item: i for i, item in enumerate(before)}
    return Moves(
        places={item: rank[item] - i for i, item in enumerate(now) if item in rank},
        came=frozenset(now) - rank.keys(),
        went=tuple(item for item in before if item not in set(now)),
    )
