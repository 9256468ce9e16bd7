"""Goals, and the picking of an answer from scored candidates."""

import numpy as np
import pytest

from recsys.engine.selection import fuse_goals, goal_weights, pick
from recsys.errors import InputError

GOALS = ("click", "like")


def test_goal_weights_default_to_the_first_goal() -> None:
    assert goal_weights({}, GOALS).tolist() == [1.0, 0.0]
    assert goal_weights({"like": 2}, GOALS).tolist() == [0.0, 2.0]


@pytest.mark.parametrize("goals", [{"love": 1.0}, {"click": 0.0}])
def test_wrong_goals_are_named(goals: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"^goals: "):
        goal_weights(goals, GOALS)


def test_the_score_is_the_weighted_geometric_mean_of_probabilities() -> None:
    logits = np.array([[0.0, 2.0], [-1.0, 1.0]])
    p = 1 / (1 + np.exp(-logits))
    log_score, log_p = fuse_goals(logits, np.array([1.0, 2.0]))
    assert np.allclose(np.exp(log_p), p)
    assert np.allclose(np.exp(log_score), (p[:, 0] * p[:, 1] ** 2) ** (1 / 3))


def test_large_logits_still_differ() -> None:
    log_score, _ = fuse_goals(np.array([[-800.0], [-799.0], [34.0], [35.0]]), np.array([1.0]))
    assert np.all(np.diff(log_score) > 0)
    assert np.isfinite(log_score).all()


def test_pick_orders_by_score_then_position() -> None:
    vectors = np.eye(4, dtype=np.float32)
    assert pick(np.array([0.1, 0.9, 0.9, 0.5]), vectors, 3, 0.0).tolist() == [1, 2, 3]
    assert pick(np.array([0.1, 0.9]), vectors[:2], 10, 0.0).tolist() == [1, 0]


def test_of_nothing_nothing_is_picked_however_different_it_should_be() -> None:
    assert pick(np.empty(0), np.empty((0, 4), dtype=np.float32), 10, 0.5).tolist() == []


def test_diversity_prefers_the_different_item() -> None:
    vectors = np.array([[1, 0], [1, 0.01], [0, 1]], dtype=np.float32)
    scores = np.array([1.0, 0.99, 0.5])
    assert pick(scores, vectors, 2, 0.0).tolist() == [0, 1]
    assert pick(scores, vectors, 2, 0.7).tolist() == [0, 2]
    assert sorted(pick(scores, vectors, 3, 1.0).tolist()) == [0, 1, 2]
