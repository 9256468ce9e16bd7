from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from recsys.data.schema import ITEMS
from recsys.training.baselines import ItemToItem, Popularity
from recsys.training.examples import Catalogue, Sequences, build_vocabulary

Make = Callable[[list[tuple[str, str, str, int]]], pl.DataFrame]


@pytest.fixture
def sequences(make_interactions: Make) -> Sequences:
    """u1: a b c. u2: a b. u3: a c d. Catalogue in the order a b c d."""
    walks = {"u1": "abc", "u2": "ab", "u3": "acd"}
    interactions = make_interactions(
        [(user, item, "view", n) for user, walk in walks.items() for n, item in enumerate(walk)]
    )
    vocabulary = build_vocabulary(interactions, pl.DataFrame(schema=ITEMS))
    catalogue = Catalogue.build(["a", "b", "c", "d"], pl.DataFrame(schema=ITEMS), vocabulary)
    return Sequences.build(interactions, catalogue, vocabulary)


def test_popularity_counts(sequences: Sequences) -> None:
    assert Popularity(sequences, 5).scores([np.array([1]), np.array([])]).tolist() == [[0, 3, 2, 2, 1]] * 2


def test_cosines_by_hand(sequences: Sequences) -> None:
    scores = ItemToItem(sequences, 5, window=10).scores([np.array([1]), np.array([2]), np.array([], dtype=np.int64)])
    # a with b: two users of 3 and 2 events; a with c: two of 3 and 2; a with d: one of 3 and 1
    assert scores[0].tolist() == pytest.approx([0, 0, 2 / 6**0.5, 2 / 6**0.5, 1 / 3**0.5])
    assert scores[1].tolist() == pytest.approx([0, 2 / 6**0.5, 0, 1 / 2, 0])
    assert scores[2].tolist() == [0] * 5


def test_a_window_of_one_counts_neighbours_only(sequences: Sequences) -> None:
    scores = ItemToItem(sequences, 5, window=1).scores([np.array([1])])
    assert scores[0].tolist() == pytest.approx([0, 0, 2 / 6**0.5, 1 / 6**0.5, 0])


def test_newer_events_weigh_more(sequences: Sequences) -> None:
    scores = ItemToItem(sequences, 5, window=10, decay=0.5).scores([np.array([1, 2])])
    assert scores[0].tolist() == pytest.approx([0, 2 / 6**0.5, 0.5 * 2 / 6**0.5, 0.5 + 0.5 * 2 / 6**0.5, 0.5 / 3**0.5])
