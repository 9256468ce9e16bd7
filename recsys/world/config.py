"""Size and character of a world."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.errors import InputError
from recsys.world.words import CATEGORIES

_BOUNDS: dict[str, tuple[float, float]] = {
    "users": (1, 1_000_000),
    "items": (32, 1_000_000),
    "categories": (2, len(CATEGORIES)),
    "seed": (0, 2**63 - 1),
    "events_per_user_day": (0.001, 1_000.0),
    "events_per_session": (1.0, 100.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """Two worlds of the same config are the same.

    Attributes:
        users, items, categories: sizes.
        seed: of everything that is left to chance.
        events_per_user_day: mean number of interactions.
        events_per_session: mean length of a session (geometric).

    Raises:
        InputError: naming the field and its bounds.
    """

    users: int = 2_000
    items: int = 1_200
    categories: int = 16
    seed: int = 0
    events_per_user_day: float = 1.25
    events_per_session: float = 6.0

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name}: {value} is not from {low:g} to {high:g}", field=name)

    @property
    def category_names(self) -> tuple[str, ...]:
        """Names of the categories, in the order in which arrays hold them."""
        return tuple(CATEGORIES)[: self.categories]
