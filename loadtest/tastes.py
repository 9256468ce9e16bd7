"""What the simulated users like: the `tastes.json` that the synthetic world writes.

    {
      "categories": ["comedy", "noir"],
      "items": [{"id": "i1", "categories": ["noir"], "weight": 3.2}],
      "users": [{"id": "u1", "taste": {"noir": 0.8, "comedy": 0.2}}]
    }

`weight` is an item's popularity and `taste` a user's liking of categories; both are relative and not negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import msgspec

from loadtest.options import LoadTestError

FILE_BYTES_MAX = 512 * 1024 * 1024


class TastesError(LoadTestError):
    """The file of tastes is missing, malformed or contradicts itself."""


class Item(msgspec.Struct, frozen=True):
    """An item of the catalogue."""

    id: str
    categories: tuple[str, ...]
    weight: float


class User(msgspec.Struct, frozen=True):
    """A user; categories that `taste` leaves out count 0."""

    id: str
    taste: dict[str, float]


class Tastes(msgspec.Struct, frozen=True, dict=True):
    """The world as far as the load test needs it."""

    categories: tuple[str, ...]
    items: tuple[Item, ...]
    users: tuple[User, ...]

    @cached_property
    def categories_of(self) -> dict[str, tuple[str, ...]]:
        """Item id -> its categories."""
        return {item.id: item.categories for item in self.items}

    @cached_property
    def items_by_category(self) -> dict[str, tuple[Item, ...]]:
        """Category -> its items, most popular first."""
        by_category: dict[str, list[Item]] = {name: [] for name in self.categories}
        for item in sorted(self.items, key=lambda item: (-item.weight, item.id)):
            for name in item.categories:
                by_category[name].append(item)
        return {name: tuple(items) for name, items in by_category.items()}

    @cached_property
    def weight_by_category(self) -> dict[str, float]:
        """Category -> popularity of its items together; categories without items are left out."""
        return {name: sum(i.weight for i in items) for name, items in self.items_by_category.items() if items}


def load_tastes(path: Path) -> Tastes:
    """Read and check a file of tastes.

    Raises:
        TastesError: naming the file, the place in it, what was found and what was expected.
    """
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise TastesError(f"{path}: {size} bytes, at most {FILE_BYTES_MAX}")
        tastes = msgspec.json.decode(path.read_bytes(), type=Tastes)
    except OSError as error:
        raise TastesError(f"{path}: cannot be read: {error.strerror}; the synthetic world writes it") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is a DecodeError and names the place
        raise TastesError(f"{path}: {error}") from None
    _check(path, tastes)
    return tastes


def _check(path: Path, tastes: Tastes) -> None:
    known = set(tastes.categories)
    for name in ("categories", "items", "users"):
        if not getattr(tastes, name):
            raise TastesError(f"{path}: {name}: at least one is needed")
    _check_distinct(path, "categories", tastes.categories)
    _check_distinct(path, "items", [item.id for item in tastes.items])
    _check_distinct(path, "users", [user.id for user in tastes.users])
    for n, item in enumerate(tastes.items):
        _check_categories(path, f"items[{n}].categories", item.categories, known)
        _check_weights(path, f"items[{n}].weight", (item.weight,))
    for n, user in enumerate(tastes.users):
        _check_categories(path, f"users[{n}].taste", user.taste, known)
        _check_weights(path, f"users[{n}].taste", user.taste.values())
    if not any(item.weight > 0 and item.categories for item in tastes.items):
        raise TastesError(f"{path}: items: no item has both a category and a weight above 0")


def _check_distinct(path: Path, name: str, ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for n, id_ in enumerate(ids):
        if not id_ or id_ in seen:
            raise TastesError(f"{path}: {name}[{n}]: {id_!r} is {'there twice' if id_ else 'empty'}")
        seen.add(id_)


def _check_categories(path: Path, where: str, names: object, known: set[str]) -> None:
    for name in names:  # type: ignore[attr-defined]
        if name not in known:
            raise TastesError(f"{path}: {where}: {name!r} is not in `categories`")


def _check_weights(path: Path, where: str, weights: object) -> None:
    for weight in weights:  # type: ignore[attr-defined]
        if not math.isfinite(weight) or weight < 0:
            raise TastesError(f"{path}: {where}: {weight} is not a finite number >= 0")


def cumulative(weights: Sequence[float]) -> list[float]:
    """Running sums, for draws by `random.choices(cum_weights=...)`."""
    return list(accumulate(weights))
