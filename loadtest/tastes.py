"""What the simulated users like: the `tastes.json` that the synthetic world writes.

    {"format": 1, "now_ms": 1700000000000,
     "categories": ["Space", "Mystery"],
     "items": [{"id": "i0", "categories": ["Mystery", "Space"], "weight": 0.3}],
     "users": [{"id": "u0", "activity": 0.7, "taste": {"Space": 0.2, "Mystery": 0.8}}]}

`weight` is an item's popularity, `activity` how often a user comes and `taste` the user's liking of categories (0 where
left out). All three are relative and none is negative.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import msgspec

from loadtest.options import LoadTestError

FORMAT = 1
FILE_BYTES_MAX = 512 * 1024 * 1024


class TastesError(LoadTestError):
    """The file of tastes is missing, malformed or contradicts itself."""


class Item(msgspec.Struct, frozen=True):
    """An item of the catalogue."""

    id: str
    categories: tuple[str, ...]
    weight: float


class User(msgspec.Struct, frozen=True):
    """A user; a category that `taste` leaves out counts 0."""

    id: str
    activity: float
    taste: dict[str, float]


class Tastes(msgspec.Struct, frozen=True, dict=True):
    """The world as far as the load test needs it."""

    format: int
    categories: tuple[str, ...]
    items: tuple[Item, ...]
    users: tuple[User, ...]

    @cached_property
    def categories_of(self) -> dict[str, tuple[str, ...]]:
        """Item id -> its categories."""
        return {item.id: item.categories for item in self.items}

    @cached_property
    def items_by_category(self) -> dict[str, tuple[Item, ...]]:
        """Category -> its items that are ever used; categories without such items are left out."""
        by_category: dict[str, list[Item]] = {}
        for item in self.items:
            if item.weight > 0:
                for category in item.categories:
                    by_category.setdefault(category, []).append(item)
        return {name: tuple(items) for name, items in by_category.items()}


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
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # a wrong type is a DecodeError too and names the place
        raise TastesError(f"{path}: {error}") from None
    try:
        _check(tastes)
    except TastesError as error:
        raise TastesError(f"{path}: {error}") from None
    return tastes


def _check(tastes: Tastes) -> None:
    if tastes.format != FORMAT:
        raise TastesError(f"format: {tastes.format} is not {FORMAT}")
    _check_names("categories", tastes.categories)
    _check_names("items", [item.id for item in tastes.items])
    _check_names("users", [user.id for user in tastes.users])
    known = frozenset(tastes.categories)
    for n, item in enumerate(tastes.items):
        _check_known(f"items[{n}].categories", item.categories, known)
        _check_weights(f"items[{n}].weight", (item.weight,))
    for n, user in enumerate(tastes.users):
        _check_known(f"users[{n}].taste", user.taste, known)
        _check_weights(f"users[{n}].taste", user.taste.values())
        _check_weights(f"users[{n}].activity", (user.activity,))
    if not tastes.items_by_category:
        raise TastesError("items: none has both a category and a weight above 0")
    if not any(user.activity > 0 for user in tastes.users):
        raise TastesError("users: none has an activity above 0")


def _check_names(where: str, names: Sequence[str]) -> None:
    if not names:
        raise TastesError(f"{where}: at least one is needed")
    seen: set[str] = set()
    for n, name in enumerate(names):
        if not name or name in seen:
            raise TastesError(f"{where}[{n}]: {name!r} is {'there twice' if name else 'empty'}")
        seen.add(name)


def _check_known(where: str, names: Iterable[str], known: frozenset[str]) -> None:
    for name in names:
        if name not in known:
            raise TastesError(f"{where}: {name!r} is not in `categories`")


def _check_weights(where: str, weights: Iterable[float]) -> None:
    for weight in weights:
        if not math.isfinite(weight) or weight < 0:
            raise TastesError(f"{where}: {weight} is not a finite number >= 0")
