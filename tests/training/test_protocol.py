from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recsys.data.dataset import Dataset
from recsys.data.splits import Split, leave_one_out
from recsys.training import protocol
from recsys.training.config import TrainConfig
from recsys.training.examples import Catalogue, build_vocabulary
from recsys.training.protocol import FutureLeakError, build_cases, refuse_future, split
from recsys.training.train import train

Make = Callable[[list[tuple[str, str, str, int]]], pl.DataFrame]


@pytest.mark.parametrize("name", ["leave_one_out", "time", "none"])
def test_the_parts_are_the_whole_and_apart(ring: str, name: str) -> None:
    interactions = Dataset.load(ring).interactions
    parts = split(interactions, TrainConfig(protocol=name, validation_users=20))
    assert parts.train.height + parts.validation.height + parts.test.height == interactions.height
    assert parts.train.height > parts.validation.height > 0
    assert (parts.test.height == 0) == (name == "none")
    assert parts.train.join(parts.test, on=["user_id", "ts"], how="semi").height == 0


@pytest.mark.parametrize("by_user", [True, False])
def test_a_planted_future_event_is_caught(make_interactions: Make, by_user: bool) -> None:
    test = make_interactions([("u1", "b", "view", 10)])
    past = make_interactions([("u1", "a", "view", 1), ("u2", "a", "view", 5)])
    refuse_future(past, test, by_user=by_user)
    with pytest.raises(FutureLeakError, match="user u1: an event at"):
        refuse_future(pl.concat([past, make_interactions([("u1", "c", "view", 11)])]), test, by_user=by_user)


def test_the_test_event_itself_in_training_is_caught(make_interactions: Make) -> None:
    test = make_interactions([("u1", "b", "view", 10)])
    with pytest.raises(FutureLeakError, match="both trained on and predicted"):
        refuse_future(make_interactions([("u1", "a", "view", 1), ("u1", "b", "view", 10)]), test, by_user=True)


def test_a_later_event_of_someone_else_is_a_leak_under_a_cut_in_time_only(make_interactions: Make) -> None:
    test = make_interactions([("u1", "b", "view", 10)])
    later = make_interactions([("u2", "b", "view", 11)])
    refuse_future(later, test, by_user=True)
    with pytest.raises(FutureLeakError, match="user u2"):
        refuse_future(later, test, by_user=False)


def test_cases_see_all_that_came_before_and_nothing_after(make_interactions: Make) -> None:
    before = make_interactions([("u1", "a", "view", 1), ("u2", "b", "view", 2), ("u1", "x", "hide", 3)])
    targets = make_interactions([("u1", "b", "view", 4), ("u2", "a", "view", 5), ("u1", "c", "view", 6)])
    targets = pl.concat([targets, make_interactions([("u1", "a", "view", 7), ("u3", "c", "view", 8)])])
    items = pl.DataFrame(
        {"item_id": ["a", "b", "c", "x"], "title": ["A", "B", "C", "X"], "categories": [[]] * 4, "year": [None] * 4},
        schema={"item_id": pl.String, "title": pl.String, "categories": pl.List(pl.String), "year": pl.Int32},
    )
    vocabulary = build_vocabulary(before, items)
    catalogue = Catalogue.build(["a", "b", "c", "x"], items, vocabulary)
    cases = build_cases(before, targets, catalogue, vocabulary)
    names = ["", *catalogue.item_ids]
    histories = [[names[row] for row in history] for history in cases.histories(slice(None))[0]]
    # u1's second event with a is no case: it was seen, so it is never offered; the hide is no event of a history
    assert list(zip(histories, [names[row] for row in cases.targets], strict=True)) == [
        (["a"], "b"),
        (["a", "b"], "c"),
        (["b"], "a"),
        ([], "c"),
    ]
    newest = cases.histories(slice(1, 2), newest=1)[0][0]
    assert [names[row] for row in newest] == ["b"]


def test_a_sample_of_cases_is_repeatable(ring: str) -> None:
    dataset = Dataset.load(ring)
    parts = split(dataset.interactions, TrainConfig(validation_users=1))
    vocabulary = build_vocabulary(parts.train, dataset.items)
    catalogue = Catalogue.build(vocabulary.items, dataset.items, vocabulary)
    one, two = (build_cases(parts.train, parts.test, catalogue, vocabulary, most=30, seed=5) for _ in range(2))
    assert len(one) == 30
    assert one.ends.tolist() == two.ends.tolist()


def test_training_refuses_a_split_that_leaks(
    ring: str, tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever breaks the split hears of it before a number is published."""

    def leaking(interactions: pl.DataFrame, **_: object) -> Split:
        parts = leave_one_out(interactions, validation_users=20)
        return Split(pl.concat([parts.train, parts.test.head(1)]).sort("ts"), parts.validation, parts.test)

    monkeypatch.setattr(protocol, "leave_one_out", leaking)
    with pytest.raises(FutureLeakError, match="trained on"):
        train(ring, tmp_path / "model", tiny)
