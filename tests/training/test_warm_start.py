from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import torch
from torch.nn import functional as F

from recsys.data.dataset import Dataset
from recsys.data.schema import ITEMS
from recsys.training.co_occurrence import co_occurrences
from recsys.training.examples import Catalogue, Sequences, build_vocabulary
from recsys.training.warm_start import item_vectors

Make = Callable[[list[tuple[str, str, str, int]]], pl.DataFrame]


def sequences_of(interactions: pl.DataFrame, item_ids: list[str]) -> Sequences:
    vocabulary = build_vocabulary(interactions, pl.DataFrame(schema=ITEMS))
    catalogue = Catalogue.build(item_ids, pl.DataFrame(schema=ITEMS), vocabulary)
    return Sequences.build(interactions, catalogue, vocabulary)


def test_co_occurrences_by_hand(make_interactions: Make) -> None:
    events = [("u1", "a", "view", 1), ("u1", "b", "view", 2), ("u1", "c", "view", 3), ("u2", "a", "view", 4)]
    sequences = sequences_of(make_interactions(events), ["a", "b", "c"])
    near = sorted(zip(*(side.tolist() for side in co_occurrences(sequences, 1)), strict=True))
    assert near == [(1, 2), (2, 1), (2, 3), (3, 2)]
    assert len(co_occurrences(sequences, 2)[0]) == 6
    assert len(co_occurrences(sequences, 1_000)[0]) == 6


def test_neighbours_on_the_ring_start_alike(ring: Path) -> None:
    sequences = sequences_of(Dataset.load(ring).interactions, [f"i{n}" for n in range(60)])
    torch.manual_seed(0)
    vectors_ID = item_vectors(sequences, 61, 16, 3)[1:]
    near = F.cosine_similarity(vectors_ID, vectors_ID.roll(1, 0)).mean()
    far = F.cosine_similarity(vectors_ID, vectors_ID.roll(30, 0)).mean()
    assert near > far + 0.5


def test_items_without_company_and_wide_vectors(make_interactions: Make) -> None:
    sequences = sequences_of(make_interactions([("u1", "a", "view", 1), ("u2", "b", "view", 2)]), ["a", "b"])
    assert not item_vectors(sequences, 3, 8, 3).any()
    events = [("u1", "a", "view", 1), ("u1", "b", "view", 2), ("u2", "c", "view", 3)]
    vectors_ID = item_vectors(sequences_of(make_interactions(events), ["a", "b", "c"]), 4, 8, 3)
    assert vectors_ID.shape == (4, 8)
    assert vectors_ID.isfinite().all()
    assert vectors_ID[[0, 3]].abs().max() < 1e-6
    assert vectors_ID[[1, 2]].abs().amax(1).min() > 0
