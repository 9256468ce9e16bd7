"""What every registered policy promises, whatever the scores, capacities and shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from router import compiled
from router.policies import base, get, names
from router.shapes import RouterState, RoutingPlan

BY_TOKEN_NUMBER = {"hash", "phase", "p2c"}  # who stands first matters to these


@pytest.fixture(params=[*names(), "price in torch"])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "price in torch":
        monkeypatch.setattr(compiled, "available", False)
        return "price"
    return str(request.param)


def scores(tokens: int, experts: int, *, seed: int = 0, hot: float = 0.5) -> Tensor:
    """Softmax gates; a share `hot` of the tokens likes the same experts."""
    draws = torch.Generator().manual_seed(seed)
    crowd_T1 = torch.rand(tokens, 1, generator=draws) < hot
    taste_E = 1.5 * torch.randn(experts, generator=draws)
    return (torch.randn(tokens, experts, generator=draws) + crowd_T1 * taste_E).softmax(dim=1)


def equal_capacity(tokens: int, experts: int, k: int, factor: float = 1.0) -> Tensor:
    return torch.full((experts,), min(tokens, -(-int(factor * tokens * k) // experts)))


def check(name: str, scores_TE: Tensor, capacity_E: Tensor, k: int, plan: RoutingPlan) -> None:
    policy, (tokens, experts) = get(name), scores_TE.shape
    ids_TK, used_TK = plan.expert_ids_TK, plan.expert_ids_TK >= 0
    assert ids_TK.shape == (tokens, k)
    assert ids_TK.dtype == torch.int64
    assert (ids_TK < experts).all()
    load_E = torch.bincount(ids_TK[used_TK], minlength=experts)
    assert torch.equal(plan.load_E, load_E)
    assert torch.equal(plan.demand_E, torch.bincount(plan.wishes_TK.flatten(), minlength=experts))
    if policy.bounded:
        assert (load_E <= capacity_E).all(), (load_E, capacity_E)
    if policy.complete and int(capacity_E.clamp_max(tokens).sum()) >= tokens * k:
        assert used_TK.all()
    assert not load_E[capacity_E == 0].any()
    for row in ids_TK.tolist():
        used = [e for e in row if e >= 0]
        assert len(set(used)) == len(used)
    for expert in range(experts):
        assert sorted(plan.rank_TK[ids_TK == expert].tolist()) == list(range(int(load_E[expert])))
    assert (plan.rank_TK[~used_TK] == -1).all()
    assert torch.isfinite(plan.gates_TK).all()
    assert not plan.gates_TK[~used_TK].any()
    assert torch.allclose(plan.gates_TK.sum(dim=1), used_TK.any(dim=1).to(plan.gates_TK.dtype), atol=1e-5)
    wished_TK = (ids_TK[:, :, None] == plan.wishes_TK[:, None, :]).any(dim=2)
    assert torch.equal(plan.redirected_TK, used_TK & ~wished_TK)
    assert torch.equal(ids_TK[wished_TK], plan.wishes_TK[wished_TK])  # a wish that came true keeps its slot
    assert (plan.prices_E >= 0).all()
    assert torch.isfinite(plan.prices_E).all()
    assert torch.equal(plan.capacity_E, capacity_E)
    assert 0 <= float(plan.score_kept) <= 1 + 1e-5


@given(
    tokens=st.integers(0, 90),
    experts=st.integers(1, 12),
    k=st.integers(1, 6),
    coarse=st.booleans(),
    factor=st.sampled_from([0.4, 1.0, 1.1, 3.0]),
    uneven=st.booleans(),
    biased=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def _any_shape(
    name: str, tokens: int, experts: int, k: int, coarse: bool, factor: float, uneven: bool, biased: bool, seed: int
) -> None:
    k, draws = min(k, experts), torch.Generator().manual_seed(seed)
    scores_TE = scores(tokens, experts, seed=seed)
    if coarse:  # many ties
        scores_TE = (scores_TE * 3).round() / 3
    capacity_E = equal_capacity(tokens, experts, k, factor)
    if uneven:
        capacity_E = (capacity_E * 2 * torch.rand(experts, generator=draws)).long()
    state = RouterState.initial(experts, bias_E=torch.randn(experts, generator=draws) * 0.1 if biased else None)
    before = (scores_TE.clone(), capacity_E.clone(), state.prices_E.clone(), state.bias_E.clone())
    policy = get(name)
    plan, after = policy.route(scores_TE, capacity_E, k, state)
    check(name, scores_TE, capacity_E, k, plan)
    assert after.step == 1
    assert torch.equal(after.bias_E, state.bias_E)
    for now, then in zip((scores_TE, capacity_E, state.prices_E, state.bias_E), before, strict=True):
        assert torch.equal(now, then)
    again, _ = policy.route(scores_TE, capacity_E, k, state)
    assert torch.equal(again.expert_ids_TK, plan.expert_ids_TK)
    second, _ = policy.route(scores_TE, capacity_E, k, after)  # with what it remembers
    check(name, scores_TE, capacity_E, k, second)


def test_promises_hold_for_any_shape(name: str) -> None:
    _any_shape(name)


@pytest.mark.parametrize("tokens", [700, 2300])
def test_promises_hold_at_the_sizes_in_use(name: str, tokens: int) -> None:
    policy, state = get(name), RouterState.initial(16)
    for batch, hot in enumerate([0.0, 0.6, 0.6]):
        scores_TE = scores(tokens, 16, seed=batch, hot=hot)
        plan, state = policy.route(scores_TE, equal_capacity(tokens, 16, 2), 2, state)
        check(name, scores_TE, plan.capacity_E, 2, plan)


@pytest.mark.parametrize("dead", [0, 3])
def test_a_dead_expert_gets_nothing_and_the_others_differ_in_capacity(name: str, dead: int) -> None:
    scores_TE, capacity_E = scores(200, 5), torch.tensor([120, 90, 60, 150, 130])
    capacity_E[dead] = 0
    plan, _ = get(name).route(scores_TE, capacity_E, 2, RouterState.initial(5))
    check(name, scores_TE, capacity_E, 2, plan)


def test_no_expert_alive(name: str) -> None:
    scores_TE, capacity_E = scores(20, 4), torch.zeros(4, dtype=torch.int64)
    plan, _ = get(name).route(scores_TE, capacity_E, 2, RouterState.initial(4))
    check(name, scores_TE, capacity_E, 2, plan)


def test_all_scores_equal(name: str) -> None:
    scores_TE, capacity_E = torch.full((400, 8), 0.125), equal_capacity(400, 8, 2)
    plan, _ = get(name).route(scores_TE, capacity_E, 2, RouterState.initial(8))
    check(name, scores_TE, capacity_E, 2, plan)


def test_all_scores_zero_or_float64(name: str) -> None:
    for scores_TE in (torch.zeros(30, 4), scores(30, 4).double()):
        plan, _ = get(name).route(scores_TE, equal_capacity(30, 4, 2), 2, RouterState.initial(4))
        check(name, scores_TE, plan.capacity_E, 2, plan)
        assert plan.gates_TK.dtype == scores_TE.dtype


def test_order_of_tokens_does_not_matter(name: str) -> None:
    if name in BY_TOKEN_NUMBER:
        pytest.skip("draws or joins queues in token order")
    scores_TE, capacity_E = scores(300, 8).double(), equal_capacity(300, 8, 2, 1.1)
    order_T = torch.randperm(300, generator=torch.Generator().manual_seed(7))
    plan, _ = get(name).route(scores_TE, capacity_E, 2, RouterState.initial(8))
    permuted, _ = get(name).route(scores_TE[order_T], capacity_E, 2, RouterState.initial(8))
    assert torch.equal(permuted.expert_ids_TK, plan.expert_ids_TK[order_T])


def test_gates_come_from_the_scores_without_bias_or_price_and_carry_their_gradient(name: str) -> None:
    scores_TE = scores(60, 6).requires_grad_()
    state = RouterState.initial(6, bias_E=torch.tensor([0.3, -0.2, 0, 0, 0, 0]))
    plan, _ = get(name).route(scores_TE, equal_capacity(60, 6, 2), 2, state)
    used_TK = plan.expert_ids_TK >= 0
    chosen_TK = scores_TE.gather(1, plan.expert_ids_TK.clamp_min(0)) * used_TK
    assert torch.allclose(plan.gates_TK, chosen_TK / chosen_TK.sum(1, keepdim=True).clamp_min(1e-30), atol=1e-6)
    plan.gates_TK[:, 0].sum().backward()
    assert scores_TE.grad is not None
    assert scores_TE.grad.any()
    assert not plan.prices_E.requires_grad


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"scores_TE": torch.full((4, 3), torch.nan)}, "scores must be finite"),
        ({"scores_TE": torch.tensor([[0.1, -0.1, 0.5]])}, "scores must be finite and >= 0"),
        ({"scores_TE": torch.tensor([[0.1, torch.inf, 0.5]])}, "scores must be finite"),
        ({"scores_TE": torch.ones(4)}, r"scores must be \(tokens, experts\)"),
        ({"scores_TE": torch.ones(4, 3, dtype=torch.float16)}, "float32 or float64"),
        ({"k": 4}, "k must be in 1..3"),
        ({"k": 0}, "k must be in 1..3"),
        ({"capacity_E": torch.tensor([1, 2])}, "capacity must be int64"),
        ({"capacity_E": torch.ones(3)}, "capacity must be int64"),
        ({"capacity_E": torch.tensor([1, -2, 3])}, "capacity must be >= 0, not -2"),
        ({"state": RouterState.initial(4)}, "state has 4 biases"),
    ],
)
def test_wrong_input_is_named(name: str, broken: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "scores_TE": torch.ones(4, 3),
        "capacity_E": torch.tensor([4, 4, 4]),
        "k": 2,
        "state": RouterState.initial(3),
    }
    with pytest.raises(ValueError, match=message):
        get(name).route(**{**arguments, **broken})  # type: ignore[arg-type]


def test_the_names_of_the_documentation() -> None:
    documented = "drift_plus_penalty drop expanded_drop hash loss_free p2c phase price sinkhorn threshold topk"
    assert " ".join(names()) == documented
    with pytest.raises(ValueError, match="'nope' is not one of drift_plus_penalty"):
        get("nope")


def test_the_policy_of_the_documentation_keeps_the_promises() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "routing.md").read_text()
    example = next(block for block in text.split("```python\n") if "@register" in block).split("```")[0]
    try:
        exec(compile(example, "docs/routing.md", "exec"), {})
        _any_shape("round_robin")
    finally:
        base._registry.pop("round_robin", None)
