from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from recsys.data.schema import INTERACTIONS, ITEMS
from recsys.training.examples import Catalogue, Sequences, build_vocabulary, pad, training_batches

ITEM_ROWS = pl.DataFrame(
    [
        {"item_id": "a", "title": "A", "categories": ["Comedy"], "year": 1994},
        {"item_id": "b", "title": "B", "categories": ["Drama", "Comedy"], "year": 2003},
        {"item_id": "c", "title": "C", "categories": [], "year": None},
        {"item_id": "future", "title": "F", "categories": ["Opera"], "year": 2024},
    ],
    schema=ITEMS,
)

Make = Callable[[list[tuple[str, str, str, int]]], pl.DataFrame]


@pytest.fixture
def interactions(make_interactions: Make) -> pl.DataFrame:
    return make_interactions(
        [
            ("u2", "b", "like", 1),
            ("u1", "b", "view", 2),
            ("u1", "c", "hide", 3),
            ("u1", "a", "purchase", 4),
            ("u2", "c", "view", 5),
            ("u2", "a", "view", 6),
            ("u2", "b", "click", 7),
        ]
    )


def sequences_of(interactions: pl.DataFrame) -> tuple[Sequences, Catalogue]:
    vocabulary = build_vocabulary(interactions, ITEM_ROWS)
    catalogue = Catalogue.build(vocabulary.items, ITEM_ROWS, vocabulary)
    return Sequences.build(interactions, catalogue, vocabulary), catalogue


def test_the_vocabulary_knows_the_training_part_only(interactions: pl.DataFrame) -> None:
    vocabulary = build_vocabulary(interactions, ITEM_ROWS)
    assert vocabulary.items == ("b", "a", "c")  # by popularity; the hide does not count
    assert vocabulary.categories == ("Comedy", "Drama")
    assert vocabulary.year_starts == (1990, 2000)


def test_events_are_grouped_by_user_oldest_first_without_hides(interactions: pl.DataFrame) -> None:
    sequences, catalogue = sequences_of(interactions)
    assert sequences.user_ids == ("u1", "u2")
    assert sequences.offsets.tolist() == [0, 2, 6]
    assert [catalogue.item_ids[row - 1] for row in sequences.items] == ["b", "a", "b", "c", "a", "b"]
    assert sequences.levels.tolist() == [0, 2, 1, 0, 0, 0]
    assert sequences.kinds.tolist() == [1, 4, 3, 1, 1, 2]


@pytest.mark.parametrize(("value", "level"), [(5.0, 2), (4.5, 1), (4.0, 1), (3.5, 0), (None, 0)])
def test_a_high_value_is_a_like_and_a_higher_one_a_love(value: float | None, level: int) -> None:
    row = {"user_id": "u", "item_id": "a", "kind": "click", "value": value, "ts": 1_700_000_000_000}
    sequences, _ = sequences_of(pl.DataFrame([row], schema=INTERACTIONS))
    assert sequences.levels.tolist() == [level]


def test_an_item_without_a_row_in_the_catalogue_is_new(interactions: pl.DataFrame) -> None:
    vocabulary = build_vocabulary(interactions, ITEM_ROWS)
    catalogue = Catalogue.build(["future", "b", "nowhere"], ITEM_ROWS, vocabulary)
    assert catalogue.features.ids_I.tolist() == [0, 0, 1, 0]
    assert catalogue.features.categories_IC[1].tolist() == [0, 0]  # its category is not known either
    assert catalogue.features.years_I.tolist() == [0, 2, 2, 0]


def test_padding_is_behind() -> None:
    padded = pad([np.array([1, 2]), np.array([], dtype=np.int64), np.array([3])])
    assert padded.tolist() == [[1, 2], [0, 0], [3, 0]]
    assert pad([]).shape == (0, 0)


def test_each_state_is_to_predict_the_event_after_it(interactions: pl.DataFrame) -> None:
    sequences, _ = sequences_of(interactions)
    (batch,) = training_batches(sequences, batch=8, history=10, newest_share=1.0, random=np.random.default_rng(0))
    by_length = batch.targets_BL[(batch.targets_BL != 0).sum(1).argsort()]
    assert by_length.tolist() == [[1, 2, 0, 0], [1, 3, 2, 1]]
    by_length = batch.history_BL[(batch.history_BL != 0).sum(1).argsort()]
    assert by_length.tolist() == [[1, 0, 0], [1, 3, 2]]


def test_a_window_inside_a_history_does_not_teach_the_cold_start(make_interactions: Make) -> None:
    interactions = make_interactions([("u", "abc"[n % 3], "view", n) for n in range(30)])
    sequences, _ = sequences_of(interactions)
    starts = set()
    for seed in range(40):
        (batch,) = training_batches(sequences, batch=8, history=5, newest_share=0.0, random=np.random.default_rng(seed))
        assert batch.history_BL.shape == (1, 5)
        assert batch.targets_BL.shape == (1, 6)
        starts.add(int(batch.targets_BL[0, 0]) == 0)
    assert starts == {True, False}
    (newest,) = training_batches(sequences, batch=8, history=5, newest_share=1.0, random=np.random.default_rng(0))
    assert newest.targets_BL[0, 1:].tolist() == sequences.items[-5:].tolist()


def test_every_user_comes_once_an_epoch(ring: str) -> None:
    from recsys.data.dataset import Dataset

    dataset = Dataset.load(ring)
    vocabulary = build_vocabulary(dataset.interactions, dataset.items)
    catalogue = Catalogue.build(vocabulary.items, dataset.items, vocabulary)
    sequences = Sequences.build(dataset.interactions, catalogue, vocabulary)
    batches = list(training_batches(sequences, batch=32, history=50, newest_share=0.5, random=np.random.default_rng(0)))
    assert sum(len(batch.history_BL) for batch in batches) == 200
    assert sum(int((batch.targets_BL != 0).sum()) for batch in batches) == dataset.interactions.height
