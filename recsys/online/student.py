"""What a model may learn between two trainings: the vectors of items, those of new ones above all.

The encoder, the gates and the experts stay as they were trained. Every row of the catalogue has a change `delta` on top
of its trained vector; users are states of the encoder, so they follow their events without learning. An event pulls
its item towards the state of its user and pushes the others away (softmax over the catalogue), in steps of Adagrad
(Duchi et al., JMLR 2011), which moves rows with few events far and well-known ones little; rows that training has
settled begin as if they had had many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys.config import OnlineSettings
from recsys.engine.catalogue import embed_items
from recsys.model.config import ModelConfig
from recsys.model.recommender import Recommender
from recsys.state.items import CatalogueItem
from recsys.training.examples import pad
from recsys.training.losses import full_softmax
from recsys.training.metrics import target_ranks

NEWEST = 500  # events of a history that an example holds; the model reads fewer
_COLUMNS = ("user_id", "item_id", "kind")


@dataclass(frozen=True, slots=True)
class Example:
    """An event and what its user had done before it, oldest first."""

    item_id: str
    history: tuple[str, ...]
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """Ranks that the items of some events had before anything was learned from them, 1 = best.

    Attributes:
        item_ids: the items.
        served_B: by the model that is served.
        student_B: by what was learned since.
    """

    item_ids: tuple[str, ...]
    served_B: Tensor
    student_B: Tensor


class Student:
    """The served model and what was learned on top of it.

    Args:
        model: as it is served; never changed.
        items: the catalogue.
        settings: sizes of the steps.
    """

    def __init__(self, model: Recommender, items: Iterable[CatalogueItem], settings: OnlineSettings) -> None:
        self.model = model.eval().requires_grad_(False)
        self._settings = settings
        self._row: dict[str, int] = {}
        self._met: set[str] = set(model.vocabulary.items)
        self._delta_ID = torch.zeros(1, model.config.width)
        self._squares_ID = torch.zeros(1, model.config.width)
        self.follow(items)

    def follow(self, items: Iterable[CatalogueItem]) -> None:
        """Take over a changed catalogue; items that stay keep what was learned of them."""
        listed = list(items)
        rows = {item.item_id: row for row, item in enumerate(listed, start=1)}
        kept = [(row, self._row[item_id]) for item_id, row in rows.items() if item_id in self._row]
        delta_ID = torch.zeros(len(listed) + 1, self.model.config.width)
        squares_ID = self._first_squares(list(rows))
        if kept:
            new, old = (list(side) for side in zip(*kept, strict=True))
            delta_ID[new], squares_ID[new] = self._delta_ID[old], self._squares_ID[old]
        self._row, self._delta_ID, self._squares_ID = rows, delta_ID, squares_ID
        self._met_I1 = torch.tensor([False, *(item_id in self._met for item_id in rows)])[:, None]
        self._base_ID = embed_items(listed, self.model)

    def learn(self, examples: Sequence[Example]) -> Judged:
        """Judge, then learn. Events of items that are not in the catalogue, or that the user had, are left out."""
        usable = self._usable(examples)
        judged = Judged(
            tuple(example.item_id for example in usable),
            self._ranks(usable, self._base_ID),
            self._ranks(usable, self._base_ID + self._delta_ID),
        )
        if usable:
            self._meet(usable)
            self._step(usable)
        return judged

    @property
    def changed(self) -> bool:
        """Whether anything was learned since the last publication or roll-back."""
        return bool(self._delta_ID.any())

    def forget(self) -> None:
        """Go back to the served model."""
        self._delta_ID.zero_()
        self._squares_ID = self._first_squares(list(self._row))

    def onto(self, model: Recommender, items: Iterable[CatalogueItem]) -> Student:
        """A student of the model that this one became; steps go on as small as they are by now."""
        heir = Student(model, [], self._settings)
        heir._row, heir._squares_ID = self._row, self._squares_ID
        heir._delta_ID = torch.zeros_like(self._delta_ID)
        heir.follow(items)
        return heir

    def graduate(self, version: str) -> Recommender:
        """The served model with what was learned, as a model of its own; new items enter its vocabulary."""
        old = self.model
        moved = {item_id: self._delta_ID[row] for item_id, row in self._row.items() if self._delta_ID[row].any()}
        fresh = [item_id for item_id in moved if item_id not in old.vocabulary.item_ids]
        model = _with_items(old, fresh, version)
        with torch.no_grad():
            for item_id, delta_D in moved.items():
                model.item_ids.weight[model.vocabulary.item_ids[item_id]] += delta_D
        return model

    def _meet(self, examples: Sequence[Example]) -> None:
        """An item nobody had yet keeps the vector of its content: being no target so far says nothing against it."""
        for example in examples:
            if example.item_id not in self._met:
                self._met.add(example.item_id)
                self._met_I1[self._row[example.item_id]] = True

    def judge(self, examples: Sequence[Example]) -> Tensor:
        """Ranks that the served model gives to the items of those events that `learn` would use."""
        return self._ranks(self._usable(examples), self._base_ID)

    def _usable(self, examples: Sequence[Example]) -> list[Example]:
        return [e for e in examples if e.item_id in self._row and e.item_id not in e.history]

    @torch.no_grad()
    def _ranks(self, examples: Sequence[Example], table_ID: Tensor) -> Tensor:
        if not examples:
            return torch.zeros(0)
        targets_B = torch.tensor([self._row[example.item_id] for example in examples])
        scores_BI = self.model.retrieval_scores(self._states(examples, table_ID), table_ID)
        scores_BI.scatter_(1, pad([self._rows(example.history) for example in examples]), -torch.inf)
        return target_ranks(scores_BI, targets_B)

    def _step(self, examples: Sequence[Example]) -> None:
        """One step of Adagrad on the rows; each event weighs the same, however many come at once."""
        table_ID = self._base_ID + self._delta_ID
        with torch.no_grad():
            states_BD = self._states(examples, table_ID)
        table_ID.requires_grad_()
        targets_B = torch.tensor([self._row[example.item_id] for example in examples])
        loss = full_softmax(states_BD, table_ID, targets_B) * (len(examples) / self._settings.batch_max)
        grad_ID = torch.autograd.grad(loss, table_ID)[0] * self._met_I1
        self._squares_ID += grad_ID.square()
        self._delta_ID -= self._settings.learning_rate * grad_ID / self._squares_ID.sqrt()
        longest_I1 = self._delta_ID.norm(dim=1, keepdim=True).clamp_min(1e-12)
        self._delta_ID *= (self._settings.change_max / longest_I1).clamp_max(1)

    def _states(self, examples: Sequence[Example], table_ID: Tensor) -> Tensor:
        """What each user wanted before the event."""
        longest = self.model.config.history
        pairs = [np.array(self._known(e)[-longest:], dtype=np.int64).reshape(-1, 2) for e in examples]
        encoded = self.model.encode(pad([p[:, 0] for p in pairs]), pad([p[:, 1] for p in pairs]), table_ID)
        return encoded.user_BD

    def _known(self, example: Example) -> list[tuple[int, int]]:
        """Row and kind of what is in the catalogue."""
        kind_of = self.model.vocabulary.kind_indices
        events = zip(example.history, example.kinds, strict=True)
        return [(row, kind_of.get(kind, 0)) for item, kind in events if (row := self._row.get(item))]

    def _first_squares(self, item_ids: Sequence[str]) -> Tensor:
        settled_I = torch.tensor([True, *(item_id in self.model.vocabulary.item_ids for item_id in item_ids)])
        first_I = torch.where(settled_I, self._settings.settled_square, self._settings.first_square)
        return first_I[:, None].repeat(1, self.model.config.width)

    def _rows(self, item_ids: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([self._row.get(item, 0) for item in item_ids], dtype=np.int64)


def examples_of(events: pl.DataFrame, *, size: int, before: pl.DataFrame | None = None) -> Iterator[list[Example]]:
    """Events of a data set in order, each with all that its user had done by then, so many at a time.

    Args:
        events: interactions.
        size: examples at a time.
        before: interactions that came before them.
    """
    done: dict[str, list[tuple[str, str]]] = {}
    for user_id, item_id, kind in (events.clear() if before is None else before).select(_COLUMNS).iter_rows():
        done.setdefault(user_id, []).append((item_id, kind))
    batch = []
    for user_id, item_id, kind in events.select(_COLUMNS).iter_rows():
        history = done.setdefault(user_id, [])
        newest = history[-NEWEST:]
        batch.append(Example(item_id, tuple(i for i, _ in newest), tuple(k for _, k in newest)))
        history.append((item_id, kind))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _with_items(model: Recommender, fresh: Sequence[str], version: str) -> Recommender:
    """A copy that knows more items; their own vectors are zero, so that at first nothing changes."""
    vocabulary = replace(model.vocabulary, items=(*model.vocabulary.items, *fresh))
    config = ModelConfig.from_json(model.config.to_json() | vocabulary.sizes())
    copy = Recommender(config, vocabulary, version)
    weights = dict(model.state_dict())
    old_ID = weights["item_ids.weight"]
    weights["item_ids.weight"] = torch.cat([old_ID, old_ID.new_zeros(len(fresh), old_ID.shape[1])])
    copy.load_state_dict(weights)
    return copy.eval()
