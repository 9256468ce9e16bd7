"""What the model's numbers stand for: item ids, categories, event kinds, years. Saved beside the weights."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ItemFeatures:
    """What the model knows of I items; row r describes the r-th of them.

    Attributes:
        ids_I: trained id, 0 for an item that was not seen in training; int64.
        categories_IC: 1 / (number of known categories) where the item has the category, else 0; float32.
        years_I: year bucket, 0 if unknown; int64.
    """

    ids_I: Tensor
    categories_IC: Tensor
    years_I: Tensor

    def with_padding(self) -> ItemFeatures:
        """The same items one row further down, below a row 0 that stands for no item."""
        return ItemFeatures(
            ids_I=torch.nn.functional.pad(self.ids_I, (1, 0)),
            categories_IC=torch.nn.functional.pad(self.categories_IC, (0, 0, 1, 0)),
            years_I=torch.nn.functional.pad(self.years_I, (1, 0)),
        )


@dataclass(frozen=True)
class Vocabulary:
    """Names known from training. Unknown ones are read as 0 or left out, never refused.

    Attributes:
        items: trained items; the n-th has id n + 1.
        categories: names of the columns of `ItemFeatures.categories_IC`.
        kinds: event kinds; the n-th has index n + 1.
        year_starts: first year of bucket 1, 2, ..., ascending. Earlier years fall into bucket 1.
    """

    items: tuple[str, ...]
    categories: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("view", "click", "like", "purchase", "hide")
    year_starts: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        """Check that names are distinct and years ascend.

        Raises:
            ValueError: naming the field.
        """
        for name in ("items", "categories", "kinds"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: contains a name twice")
        if list(self.year_starts) != sorted(set(self.year_starts)):
            raise ValueError("year_starts: not ascending")

    @cached_property
    def item_ids(self) -> Mapping[str, int]:
        """Trained id of each trained item."""
        return {name: n for n, name in enumerate(self.items, 1)}

    @cached_property
    def category_columns(self) -> Mapping[str, int]:
        """Column of each category."""
        return {name: n for n, name in enumerate(self.categories)}

    @cached_property
    def kind_indices(self) -> Mapping[str, int]:
        """Index of each event kind."""
        return {name: n for n, name in enumerate(self.kinds, 1)}

    def sizes(self) -> dict[str, int]:
        """The fields of `ModelConfig` that this vocabulary determines."""
        return {
            "items": len(self.items),
            "categories": len(self.categories),
            "years": len(self.year_starts),
            "kinds": len(self.kinds),
        }

    def year_bucket(self, year: int | None) -> int:
        """Bucket of a year; 0 if it is unknown."""
        if year is None or not self.year_starts:
            return 0
        return max(1, bisect_right(self.year_starts, year))

    def item_features(
        self, item_ids: Sequence[str], categories: Iterable[Iterable[str]], years: Iterable[int | None]
    ) -> ItemFeatures:
        """Features of items, in the order given. The three arguments run beside each other."""
        categories_IC = np.zeros((len(item_ids), len(self.categories)), dtype=np.float32)
        for row, names in enumerate(categories):
            columns = [self.category_columns[name] for name in set(names) if name in self.category_columns]
            if columns:
                categories_IC[row, columns] = 1.0 / len(columns)
        return ItemFeatures(
            ids_I=torch.tensor([self.item_ids.get(item, 0) for item in item_ids], dtype=torch.int64),
            categories_IC=torch.from_numpy(categories_IC),
            years_I=torch.tensor([self.year_bucket(year) for year in years], dtype=torch.int64),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back to an equal vocabulary."""
        return {
            "items": list(self.items),
            "categories": list(self.categories),
            "kinds": list(self.kinds),
            "year_starts": list(self.year_starts),
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Vocabulary:
        """The vocabulary that `to_json` described.

        Raises:
            ValueError: naming the field that is missing, unknown or of the wrong kind.
        """
        expected: dict[str, type] = {"items": str, "categories": str, "kinds": str, "year_starts": int}
        for name in sorted(set(values) ^ set(expected)):
            raise ValueError(f"{name}: {'missing' if name in expected else 'not a field of the vocabulary'}")
        for name, kind in expected.items():
            if not isinstance(values[name], list) or not all(type(value) is kind for value in values[name]):
                raise ValueError(f"{name}: not a list of {kind.__name__}")
        return Vocabulary(**{name: tuple(values[name]) for name in expected})
