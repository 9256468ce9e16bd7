"""Policy `threshold` where experts bring a threshold of their own."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from router.policies import get
from router.router import Router
from router.shapes import OwnThreshold, RouterState, RoutingPlan


def activations(tokens: int, experts: int, seed: int, loud: int = 0) -> Tensor:
    """Scores around 1; the first `loud` experts answer more strongly to everything."""
    scores_TE = 1 + 0.3 * torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))
    scores_TE[:, :loud] += 0.4
    return scores_TE.clamp(min=0)


def check(scores_TE: Tensor, own: OwnThreshold, plan: RoutingPlan) -> None:
    tokens, experts = scores_TE.shape
    ids_TK, used_TK = plan.expert_ids_TK, plan.expert_ids_TK >= 0
    assert ids_TK.shape == plan.wishes_TK.shape == (tokens, own.slots)
    passed_T = (scores_TE > own.value).sum(1).clamp(max=own.slots)
    assert torch.equal((plan.wishes_TK >= 0).sum(1), passed_T)
    assert torch.equal(ids_TK[used_TK], plan.wishes_TK[used_TK])  # a price only takes away
    for ids, wished in ((ids_TK, plan.demand_E), (plan.wishes_TK, plan.demand_E)):
        rows = [[e for e in row if e >= 0] for row in ids.tolist()]
        assert all(len(set(row)) == len(row) for row in rows)
        assert (torch.bincount(ids[ids >= 0], minlength=experts) <= wished).all()
    assert torch.equal(plan.load_E, torch.bincount(ids_TK[used_TK], minlength=experts))
    chosen_TK = scores_TE.gather(1, ids_TK.clamp_min(0)) - own.value - plan.prices_E[ids_TK.clamp_min(0)]
    assert (chosen_TK[used_TK] > -1e-6).all()
    assert not plan.redirected_TK.any()
    assert not plan.load_E[plan.capacity_E == 0].any()
    assert (plan.prices_E >= 0).all()
    assert plan.prices_E.isfinite().all()
    assert not plan.gates_TK[~used_TK].any()
    assert torch.allclose(plan.gates_TK.sum(1), used_TK.any(1).float(), atol=1e-5)
    assert 0 <= float(plan.score_kept) <= 1 + 1e-5


@given(
    tokens=st.integers(0, 60),
    experts=st.integers(1, 10),
    k=st.integers(1, 4),
    value=st.sampled_from([0.0, 0.7, 1.0, 1.3, 99.0]),
    factor=st.sampled_from([0.4, 1.0, 20.0]),
    dead=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_promises_hold_for_any_shape(
    tokens: int, experts: int, k: int, value: float, factor: float, dead: bool, seed: int
) -> None:
    k = min(k, experts)
    own = OwnThreshold(torch.tensor(value), min(2 * k, experts))
    capacity_E = torch.full((experts,), min(tokens, -(-int(factor * tokens * k) // experts)))
    if dead:
        capacity_E[0] = 0
    state = RouterState(torch.zeros(experts), torch.zeros(experts), own=own)
    for batch in range(3):
        scores_TE = activations(tokens, experts, seed + batch, loud=1)
        plan, after = get("threshold").route(scores_TE, capacity_E, k, state)
        check(scores_TE, own, plan)
        state = RouterState(after.prices_E, after.bias_E, after.step, own)


def test_with_room_nothing_but_the_token_counts() -> None:
    router = Router("threshold", capacity_factor=8.0, layers=1, experts=8)
    own, scores_TE, no_bias_E = OwnThreshold(torch.tensor(1.2), 4), activations(500, 8, 0, loud=3), torch.zeros(8)
    first = router.route(0, scores_TE, 2, no_bias_E, own)
    second = router.route(0, scores_TE, 2, no_bias_E, own)
    assert not second.prices_E.any()
    assert torch.equal(first.expert_ids_TK, second.expert_ids_TK)
    for token in (0, 77, 499):
        alone = router.route(0, scores_TE[token : token + 1], 2, no_bias_E, own)
        assert torch.equal(alone.expert_ids_TK[0], first.expert_ids_TK[token])


def test_a_crowd_raises_the_threshold_of_its_experts_alone() -> None:
    router = Router("threshold", capacity_factor=1.2, layers=1, experts=8)
    own, no_bias_E = OwnThreshold(torch.tensor(1.25), 4), torch.zeros(8)
    for batch in range(6):
        plan = router.route(0, activations(4_000, 8, batch, loud=2), 2, no_bias_E, own)
    over_E = plan.demand_E > plan.capacity_E
    assert over_E.tolist() == [True] * 2 + [False] * 6
    assert torch.equal(plan.prices_E > 0, over_E)
    assert (plan.load_E[over_E] / plan.capacity_E[over_E] - 1).abs().max() < 0.1
    assert torch.equal(plan.load_E[~over_E], plan.demand_E[~over_E])
    assert 0.5 < float(plan.score_kept) < 1
