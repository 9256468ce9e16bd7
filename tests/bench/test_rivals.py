"""Rivals hold what they promise, so that a comparison with them says something."""

from __future__ import annotations

import pytest
import torch

from recsys.bench import rivals
from router.gates import TopicGates
from router.oracle import exact_optimum
from router.policies.base import Policy
from router.shapes import RouterState

ALL: list[Policy] = [
    rivals.EVICT_AND_REBID,
    rivals.IN_ARRIVAL_ORDER,
    rivals.IN_CONFIDENCE_ORDER,
    rivals.SINKHORN_KNOBS[4],
    rivals.LOSS_FREE_KNOBS[3],
]


@pytest.mark.parametrize("rival", ALL, ids=lambda rival: rival.name)
@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_hard_capacities_without_a_drop_in_every_batch(rival: Policy, factor: float) -> None:
    gates, capacity_E = TopicGates(8), torch.full((8,), int(300 * factor * 2 / 8))
    state = RouterState.initial(8)
    for batch in range(3):
        scores_TE = gates.draw(300, seed=batch, hot_topic=0 if batch else None)
        plan, state = rival.route(scores_TE, capacity_E, 2, state)
        assert (plan.load_E <= capacity_E).all()
        assert (plan.expert_ids_TK >= 0).all()
        assert (plan.expert_ids_TK[:, 0] != plan.expert_ids_TK[:, 1]).all()
        best = exact_optimum(scores_TE, capacity_E, 2)
        assert float(scores_TE.gather(1, plan.expert_ids_TK).sum()) <= best + 1e-3


@pytest.mark.parametrize("confident_first", [False, True])
def test_taking_turns_is_what_it_says(confident_first: bool) -> None:
    scores_TE, capacity = TopicGates(5).draw(40, seed=3, hot_topic=0), 17
    order = scores_TE.amax(dim=1).argsort(descending=True, stable=True).tolist() if confident_first else range(40)
    room, expected = [capacity] * 5, {}
    for token in order:
        open_first = [e for e in scores_TE[token].argsort(descending=True).tolist() if room[e]]
        expected[token] = sorted(open_first[:2])
        for expert in expected[token]:
            room[expert] -= 1
    rival = rivals.InOrder("turns", confident_first=confident_first)
    plan, _ = rival.route(scores_TE, torch.full((5,), capacity), 2, RouterState.initial(5))
    assert [sorted(row) for row in plan.expert_ids_TK.tolist()] == [expected[token] for token in range(40)]


def test_at_its_best_is_not_worse_than_any_setting() -> None:
    gates, capacity_E = TopicGates(8), torch.full((8,), 50)
    batches = [gates.draw(200, seed=n, hot_topic=0 if n > 2 else None) for n in range(6)]

    def kept(rival: rivals.Repaired) -> float:
        state, total = RouterState.initial(8), 0.0
        for number, scores_TE in enumerate(batches):
            plan, state = rival.route(scores_TE, capacity_E, 2, state)
            total += float(plan.score_kept) if number in (3, 5) else 0
        return total

    best = rivals.at_its_best(rivals.LOSS_FREE_KNOBS, batches, [3, 5], capacity_E, 2)
    assert kept(best) == max(kept(rival) for rival in rivals.LOSS_FREE_KNOBS)
