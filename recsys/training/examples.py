"""Events as the tensors that the model reads: the one definition of features, for training, evaluation and serving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.model.recommender import Recommender
from recsys.model.vocabulary import ItemFeatures, Vocabulary

LEVELS: Mapping[
    int, tuple[float, tuple[str, ...]]
] = {  # by goal: values (ratings) from here on, and kinds, that meet it
    1: (4.0, ("like", "purchase")),
    2: (5.0, ("purchase",)),
}
YEARS_PER_BUCKET = 5

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def build_vocabulary(interactions: pl.DataFrame, items: pl.DataFrame) -> Vocabulary:
    """Names of the training part: items by falling popularity, their categories, years in five-year buckets."""
    counts = interactions.filter(pl.col("kind") != "hide").group_by("item_id").len()
    trained = counts.sort(["len", "item_id"], descending=[True, False])["item_id"]
    known = items.filter(pl.col("item_id").is_in(trained.implode()))
    years = known["year"].drop_nulls()
    starts = (years // YEARS_PER_BUCKET * YEARS_PER_BUCKET).unique().sort().to_list()
    categories = known["categories"].explode(empty_as_null=True).drop_nulls().unique().sort().to_list()
    return Vocabulary(items=tuple(trained), categories=tuple(categories), year_starts=tuple(starts))


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Items as rows of a table: row r >= 1 is `item_ids[r - 1]`, row 0 is no item.

    Attributes:
        item_ids: the items.
        features: one row more than there are items, for row 0.
    """

    item_ids: tuple[str, ...]
    features: ItemFeatures

    @staticmethod
    def build(item_ids: Sequence[str], items: pl.DataFrame, vocabulary: Vocabulary) -> Catalogue:
        """The named items, in that order, described by the table `items`."""
        wanted = pl.DataFrame({"item_id": item_ids}, schema={"item_id": pl.String})
        found = wanted.join(items, on="item_id", how="left", maintain_order="left")
        categories = found["categories"].fill_null([]).to_list()
        features = vocabulary.item_features(list(item_ids), categories, found["year"].to_list())
        return Catalogue(tuple(item_ids), features.with_padding())

    def table(self, model: Recommender) -> Tensor:
        """Vectors of all items, row 0 included."""
        return model.item_table(self.features.ids_I, self.features.categories_IC, self.features.years_I)

    def rows(self) -> Mapping[str, int]:
        """Row of each item."""
        return {item: row for row, item in enumerate(self.item_ids, 1)}


@dataclass(frozen=True, slots=True)
class Sequences:
    """Events of all users, user after user, each oldest first. User u owns `offsets[u]` up to `offsets[u + 1]`.

    Attributes:
        items: rows of the catalogue, never 0.
        kinds: index of the kind in the vocabulary.
        levels: the last of `GOALS` that the event meets: 0 = click, 1 = like, 2 = love.
        marked: what the caller marked: the events to predict.
    """

    user_ids: tuple[str, ...]
    offsets: Ints
    items: Ints
    kinds: Ints
    levels: Ints
    marked: NDArray[np.bool_]

    @property
    def lengths(self) -> Ints:
        """Events per user."""
        return np.diff(self.offsets)

    @staticmethod
    def build(interactions: pl.DataFrame, catalogue: Catalogue, vocabulary: Vocabulary) -> Sequences:
        """Group events by user. Hide events and items outside the catalogue are left out.

        A column `marked` is taken over; without one nothing is marked.
        """
        if "marked" not in interactions.columns:
            interactions = interactions.with_columns(marked=pl.lit(False))
        rows = catalogue.rows()
        events = (
            interactions.filter((pl.col("kind") != "hide") & pl.col("item_id").is_in(list(rows)))
            .sort("ts", maintain_order=True)
            .with_columns(
                row=pl.col("item_id").replace_strict(rows, return_dtype=pl.Int64, default=0),
                kind_index=pl.col("kind")
                .cast(pl.String)
                .replace_strict(dict(vocabulary.kind_indices), return_dtype=pl.Int64, default=0),
                level=pl.max_horizontal(pl.lit(0), *(_reached(level) * level for level in LEVELS)).cast(pl.Int64),
                user=pl.col("user_id").rank("dense"),
            )
            .sort("user", maintain_order=True)
        )
        users = events.group_by("user_id", maintain_order=True).len()
        return Sequences(
            user_ids=tuple(users["user_id"]),
            offsets=np.concatenate([[0], users["len"].cast(pl.Int64).to_numpy().cumsum()]).astype(np.int64),
            items=events["row"].to_numpy(writable=True),
            kinds=events["kind_index"].to_numpy(writable=True),
            levels=events["level"].to_numpy(writable=True),
            marked=events["marked"].to_numpy(writable=True),
        )


def _reached(level: int) -> pl.Expr:
    value, kinds = LEVELS[level]
    return pl.col("kind").cast(pl.String).is_in(kinds) | (pl.col("value") >= value).fill_null(False)


def pad(rows: Sequence[NDArray[Any]]) -> Tensor:
    """Arrays of different lengths as one (B, L) tensor, each in front, zeros behind."""
    length = max((len(row) for row in rows), default=0)
    padded = np.zeros((len(rows), length), dtype=rows[0].dtype if len(rows) else np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(padded)


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Windows of B users. State p of the encoder, which has read p events, is to predict `targets_BL[:, p]`.

    Attributes:
        history_BL, kinds_BL: what the encoder reads, one position shorter than the targets.
        targets_BL: catalogue rows; 0 where there is nothing to predict.
        levels_BL: level of the target.
    """

    history_BL: Tensor
    kinds_BL: Tensor
    targets_BL: Tensor
    levels_BL: Tensor


def training_batches(
    sequences: Sequences, *, batch: int, history: int, newest_share: float, random: np.random.Generator
) -> Iterator[TrainingBatch]:
    """One window of every user, users of similar length together, in random order.

    A window that starts inside a user's events does not teach the cold start.
    """
    longest = history + 1
    lengths = sequences.lengths
    noise = random.uniform(0.9, 1.1, len(lengths))  # so that batches mix differently in every epoch
    users = np.argsort(np.minimum(lengths, longest) * noise, kind="stable")
    latest = np.maximum(lengths - longest, 0)
    starts = np.where(random.random(len(lengths)) < newest_share, latest, random.integers(0, latest + 1))
    batches = [users[first : first + batch] for first in range(0, len(users), batch)]
    for n in random.permutation(len(batches)):
        yield _training_batch(sequences, batches[n], starts, longest)


def _training_batch(sequences: Sequences, users: Ints, starts: Ints, longest: int) -> TrainingBatch:
    begins = sequences.offsets[users] + starts[users]
    ends = np.minimum(begins + longest, sequences.offsets[users + 1])
    spans = [slice(begin, end) for begin, end in zip(begins, ends, strict=True)]
    targets_BL = pad([sequences.items[span] for span in spans])
    targets_BL[torch.from_numpy(starts[users] > 0), 0] = 0
    return TrainingBatch(
        history_BL=pad([sequences.items[span][:-1] for span in spans]),
        kinds_BL=pad([sequences.kinds[span][:-1] for span in spans]),
        targets_BL=targets_BL,
        levels_BL=pad([sequences.levels[span] for span in spans]),
    )
