"""The stateful router that a model is called with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels.ops import moe_experts
from router import imbalance
from router.capacity import keep_best, uniform_capacity
from router.router import Router


def scores(tokens: int, experts: int, seed: int = 0) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    return (torch.randn(tokens, experts, generator=draws) + torch.linspace(0, 2, experts)).softmax(dim=1)


def test_capacity_follows_factor_and_health() -> None:
    router = Router("price", capacity_factor=1.25, layers=1, experts=8)
    assert router.capacity(100, 2).tolist() == [32] * 8  # ceil(1.25 * 200 / 8)
    router.set_health(torch.tensor([1, 1, 1, 1, 1, 0.5, 0.25, 0.0]))
    assert router.capacity(100, 2).tolist() == [35, 35, 35, 35, 35, 18, 9, 0]  # 200 slots still have a place
    assert router.static_capacity(100, 2) == 35
    router.capacity_factor = 1.0
    assert router.static_capacity(100, 2) == 35
    plan = router.route(0, scores(100, 8), 2, torch.zeros(8))
    assert (plan.load_E <= plan.capacity_E).all()
    assert int(plan.load_E[7]) == 0
    assert router.last_plans == [plan]


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.5])
@pytest.mark.parametrize("policy", ["price", "topk", "phase", "p2c"])
def test_a_dead_expert_costs_no_slots(policy: str, factor: float) -> None:
    router, scores_TE = Router(policy, capacity_factor=factor, layers=1, experts=8), scores(200, 8)
    before = int((router.route(0, scores_TE, 2, torch.zeros(8)).expert_ids_TK >= 0).sum())
    router.set_health(torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 0]))
    plan = router.route(0, scores_TE, 2, torch.zeros(8))
    assert int(plan.load_E[7]) == 0
    assert int((plan.expert_ids_TK >= 0).sum()) >= before
    router.set_health(torch.zeros(8))
    assert not router.route(0, scores_TE, 2, torch.zeros(8)).load_E.any()


def test_slots_grow_only_as_far_as_they_are_needed() -> None:
    router = Router("price", capacity_factor=1.0, layers=1, experts=4)
    router.set_health(torch.tensor([1.0, 1, 0.5, 0.5]))
    assert router.capacity(120, 2).tolist() == [80, 80, 40, 40]  # 240 wanted, 60 each while all are well
    router.capacity_factor = 1.5
    assert router.capacity(120, 2).tolist() == [90, 90, 45, 45]
    router.set_health(torch.tensor([1.0, 0, 0, 0]))
    assert router.capacity(120, 2).tolist() == [120, 0, 0, 0]  # a token has one slot in one expert


def test_a_slow_expert_is_sized_for_the_batch_at_hand_because_all_wait_for_it() -> None:
    router = Router("price", capacity_factor=1.5, layers=1, experts=4)
    router.tokens_min = 1_000
    router.set_health(torch.tensor([1.0, 1, 1, 0.125]))
    assert router.capacity(120, 2).tolist() == [750, 750, 750, 12]


def test_a_spare_slot_is_room_for_another_block() -> None:
    router = Router("price", capacity_factor=1.0, layers=1, experts=4)
    router.set_replicas(torch.tensor([3, 1, 1, 1]))
    assert router.capacity(120, 2).tolist() == [120, 60, 60, 60]  # 180, but a token has one slot in one expert
    assert router.static_capacity(120, 2) is None
    router.set_replicas(torch.ones(4, dtype=torch.int64))
    assert router.static_capacity(120, 2) == 60
    with pytest.raises(ValueError, match="replicas must be >= 1"):
        router.set_replicas(torch.tensor([0, 1, 1, 1]))


def test_capacity_is_never_more_than_one_slot_per_token() -> None:
    assert uniform_capacity(10, 2, 4, 100.0) == 10
    assert uniform_capacity(0, 2, 4, 1.0) == 0
    assert uniform_capacity(3200, 2, 16, 1.1) == 440  # not 441 for a rounding error


def test_unconstrained_is_plain_topk_and_each_layer_remembers_for_itself() -> None:
    router = Router.unconstrained(2, 4)
    assert router.policy.name == "topk"
    assert router.static_capacity(50, 2) is None
    scores_TE = scores(50, 4)
    assert torch.equal(router.route(0, scores_TE, 2, torch.zeros(4)).expert_ids_TK, scores_TE.topk(2).indices)
    priced = Router("price", capacity_factor=1.0, layers=2, experts=4)
    assert priced.route(0, scores_TE, 2, torch.zeros(4)).prices_E.any()
    assert priced.last_plans[1] is None


def test_bias_chooses_but_does_not_weigh() -> None:
    scores_TE, bias_E = scores(50, 4), torch.tensor([5.0, 0, 0, -5.0])
    plan = Router.unconstrained(1, 4).route(0, scores_TE, 1, bias_E)
    assert (plan.expert_ids_TK == 0).all()
    assert (plan.gates_TK == 1).all()


@pytest.mark.parametrize("policy", ["topk", "drop", "price", "phase"])
def test_a_plan_runs_in_the_form_its_router_names(policy: str) -> None:
    router, draws = Router(policy, capacity_factor=1.0, layers=1, experts=4), torch.Generator().manual_seed(0)
    x_TD = torch.randn(60, 8, generator=draws)
    w_up, w_down = torch.randn(4, 8, 12, generator=draws), torch.randn(4, 6, 8, generator=draws)
    plan = router.route(0, scores(60, 4), 2, torch.zeros(4))
    arguments = (x_TD, plan.expert_ids_TK, plan.gates_TK, plan.rank_TK, plan.load_E, w_up, w_down)
    actual = moe_experts(*arguments, capacity=router.static_capacity(60, 2))
    assert torch.allclose(actual, moe_experts(*arguments, capacity=None), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "best"}, "'best' is not one of"),
        ({"capacity_factor": 0.0}, "capacity_factor must be > 0"),
        ({"capacity_factor": float("nan")}, "capacity_factor must be > 0"),
        ({"layers": 0}, "layers must be >= 1"),
        ({"experts": 0}, "experts must be >= 1"),
    ],
)
def test_wrong_settings_are_named(arguments: dict[str, object], message: str) -> None:
    settings = {"policy": "price", "capacity_factor": 1.0, "layers": 1, "experts": 4, **arguments}
    with pytest.raises(ValueError, match=message):
        Router(settings.pop("policy"), **settings)  # type: ignore[arg-type]


def test_wrong_calls_are_named() -> None:
    router = Router("price", capacity_factor=1.0, layers=2, experts=4)
    with pytest.raises(ValueError, match=r"layer must be in 0..1, not 2"):
        router.route(2, scores(5, 4), 2, torch.zeros(4))
    with pytest.raises(ValueError, match=r"scores must be \(tokens, 4\)"):
        router.route(0, scores(5, 3), 2, torch.zeros(4))
    with pytest.raises(ValueError, match=r"state has 3 biases"):
        router.route(0, scores(5, 4), 2, torch.zeros(3))
    with pytest.raises(ValueError, match=r"health must be in \[0, 1\]"):
        router.set_health(torch.tensor([1, 1, 1, 1.5]))
    with pytest.raises(ValueError, match=r"health must have shape"):
        router.set_health(torch.ones(3))


def test_best_slots_are_kept() -> None:
    ids_TK = torch.tensor([[0, 1], [0, -1], [0, 1], [1, 0]])
    value_TK = torch.tensor([[0.5, 0.1], [0.9, 9.0], [0.5, 0.2], [0.2, 0.1]])
    kept = keep_best(ids_TK, value_TK, torch.tensor([2, 2]))
    assert kept.tolist() == [[True, False], [True, False], [False, True], [True, False]]


def test_measures_of_imbalance() -> None:
    even_E, one_E, none_E = torch.tensor([5, 5, 5, 5]), torch.tensor([20, 0, 0, 0]), torch.zeros(4, dtype=torch.int64)
    assert [imbalance.max_over_mean(x) for x in (even_E, one_E, none_E)] == [1.0, 4.0, 1.0]
    assert [imbalance.coefficient_of_variation(x) for x in (even_E, one_E, none_E)] == [0.0, pytest.approx(3**0.5), 0.0]
    assert [imbalance.normalised_entropy(x) for x in (even_E, one_E, none_E)] == [pytest.approx(1.0), 0.0, 1.0]
    router = Router("drop", capacity_factor=1.0, layers=1, experts=4)
    plan = router.route(0, scores(40, 4), 2, torch.zeros(4))
    assert imbalance.drop_rate(plan) == pytest.approx(1 - int(plan.load_E.sum()) / 80)
    assert imbalance.redirect_rate(plan) == 0


def test_torch_alone_is_enough() -> None:
    code = """
import sys
sys.modules["numpy"] = sys.modules["numba"] = None  # as if neither were installed
import torch
from router.router import Router
router = Router("price", capacity_factor=1.0, layers=1, experts=4)
plan = router.route(0, torch.rand(40, 4).softmax(1), 2, torch.zeros(4))
assert plan.load_E.tolist() == [20] * 4, plan.load_E
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
