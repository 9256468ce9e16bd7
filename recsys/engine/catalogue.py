"""The catalogue as the device sees it: one row per item, row 0 = padding.

A `Catalogue` is never changed: changes build the next one beside it and swap it in, so that a batch in flight keeps
the rows that it started with. Rows of deleted items stay, marked dead, so that histories keep their meaning; of a
catalogue that always changes only those of the items deleted last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.model.recommender import Recommender
from recsys.state.items import CatalogueItem

DEAD_SHARE = 0.25  # of the live items: so many deleted ones are kept ...
DEAD_MIN = 256  # ... but at least these


class Catalogue:
    """Items as rows, with the model's embedding of each.

    Attributes:
        item_ids: id of each row; row 0 is "".
        table_ID: item embeddings of the model, row 0 zero.
        dead: deleted items that still have a row, in the order in which they went.
        live_I: rows that may be recommended.
    """

    def __init__(self, items: Sequence[CatalogueItem], model: Recommender, *, dead: Iterable[str] = ()) -> None:
        self.items = list(items)
        self.item_ids = ["", *(item.item_id for item in self.items)]
        self._row = {item_id: row for row, item_id in enumerate(self.item_ids) if row}
        if len(self._row) != len(self.items):
            raise ValueError("items: the same item_id twice")
        self.dead = tuple(dead)
        gone = set(self.dead)
        self.live_I = np.array([False, *(item.item_id not in gone for item in self.items)])
        self.has_year_I = np.array([False, *(item.year is not None for item in self.items)])
        self.year_I = np.array([0, *(item.year or 0 for item in self.items)])
        self._category_rows = self._index_categories()
        self.table_ID = embed_items(self.items, model)
        self.vectors_ID: NDArray[np.float32] = self.table_ID.float().cpu().numpy()

    def __len__(self) -> int:
        return len(self.items)

    def row(self, item_id: str) -> int:
        """Row of an item, 0 if it is not in the catalogue."""
        return self._row.get(item_id, 0)

    def rows(self, item_ids: Iterable[str]) -> list[int]:
        """Rows of items, 0 for those that are not in the catalogue."""
        return list(map(self._row.get, item_ids, repeat(0)))

    def in_any_category(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Rows with at least one of these categories; an unknown category has none."""
        mask_I = np.zeros(len(self.item_ids), dtype=bool)
        for name in names:
            mask_I[self._category_rows.get(name, [])] = True
        return mask_I

    def changed(self, puts: Mapping[str, CatalogueItem], deletes: Iterable[str], model: Recommender) -> Catalogue:
        """The catalogue after some items were put and some deleted."""
        items = [puts.get(item.item_id, item) for item in self.items]
        items += [item for item_id, item in puts.items() if not self.row(item_id)]
        dead = [i for i in dict.fromkeys([*self.dead, *deletes]) if self.row(i) and i not in puts]
        kept = max(DEAD_MIN, int(DEAD_SHARE * (len(items) - len(dead))))
        forgotten = set(dead[:-kept])
        return Catalogue([item for item in items if item.item_id not in forgotten], model, dead=dead[-kept:])

    def _index_categories(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, item in enumerate(self.items, start=1):
            for name in item.categories:
                rows.setdefault(name, []).append(row)
        return rows


def embed_items(items: Sequence[CatalogueItem], model: Recommender) -> Tensor:
    """Vectors of items as rows 1, 2, ... of a table on the model's device; row 0 is zero."""
    features = model.vocabulary.item_features(
        [item.item_id for item in items], [item.categories for item in items], [item.year for item in items]
    ).with_padding()
    device = model.device
    with torch.inference_mode():
        table_ID = model.item_table(
            features.ids_I.to(device), features.categories_IC.to(device), features.years_I.to(device)
        )
        table_ID[0] = 0
    return table_ID
