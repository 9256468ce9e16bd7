"""Spare slots go where they cool most, and not too often."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from router.policies import get
from router.replicas import ReplicaPlan, hottest_slot, replan, replicate
from router.shapes import RouterState

demands = st.lists(st.integers(0, 1000), min_size=1, max_size=4)


@given(demand=demands, spare=st.integers(0, 4))
def test_no_other_plan_has_a_cooler_hottest_slot(demand: list[int], spare: int) -> None:
    demand_E, slots = torch.tensor(demand), len(demand) + spare
    replicas_E = replicate(demand_E, slots)
    assert int(replicas_E.sum()) == slots
    assert int(replicas_E.min()) >= 1
    others = itertools.product(range(1, spare + 2), repeat=len(demand))
    best = min(hottest_slot(demand_E, torch.tensor(other)) for other in others if sum(other) == slots)
    assert hottest_slot(demand_E, replicas_E) == pytest.approx(best)


@given(demand=demands, spare=st.integers(0, 9))
def test_more_demand_never_gets_fewer_copies(demand: list[int], spare: int) -> None:
    replicas = replicate(torch.tensor(demand), len(demand) + spare).tolist()
    for (one, copies), (other, other_copies) in itertools.combinations(zip(demand, replicas, strict=True), 2):
        if one > other:
            assert copies >= other_copies


def test_scale_does_not_matter_and_no_demand_spreads_evenly() -> None:
    demand_E = torch.tensor([5.0, 1.0, 3.0])
    assert torch.equal(replicate(demand_E, 9), replicate(demand_E * 1e9, 9))
    assert ReplicaPlan.even(4, 7, now_s=0).replicas_E.tolist() == [2, 2, 2, 1]


def test_a_plan_holds_through_its_dwell_time_and_inside_the_dead_band() -> None:
    plan = ReplicaPlan(torch.tensor([2, 1, 1]), since_s=10.0)
    hot_E, warm_E = torch.tensor([10.0, 90.0, 10.0]), torch.tensor([30.0, 18.0, 10.0])
    assert replan(plan, hot_E, now_s=14.9) is plan
    assert replan(plan, warm_E, now_s=99) is plan
    moved = replan(plan, hot_E, now_s=15)
    assert moved.replicas_E.tolist() == [1, 2, 1]
    assert moved.since_s == 15
    assert replan(moved, hot_E, now_s=30) is moved
    assert replan(moved, torch.zeros(3), now_s=30) is moved


@given(level=st.floats(0.5, 2), seed=st.integers(0, 99))
def test_noise_around_a_steady_demand_does_not_make_it_move(level: float, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    demand_E = level * torch.tensor([100.0, 60.0, 30.0, 20.0])
    plan = replan(ReplicaPlan.even(4, 6, now_s=-100), demand_E, now_s=0)
    for second in range(1, 60):
        noise_E = 1 + 0.1 * torch.rand(4, generator=draws)
        assert replan(plan, demand_E * noise_E, now_s=10 * second) is plan


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="slots must be >= 3"):
        replicate(torch.ones(3), 2)
    with pytest.raises(ValueError, match="demand must be finite"):
        replicate(torch.tensor([1.0, torch.nan]), 3)
    with pytest.raises(ValueError, match="dead_band must be >= 1"):
        replan(ReplicaPlan.even(2, 3, now_s=0), torch.ones(2), now_s=9, dead_band=0.5)


@pytest.mark.parametrize(("spare", "least"), [(0, 0.78), (4, 0.90), (8, 0.95)])
def test_in_a_crowd_a_few_spare_slots_keep_what_routing_alone_loses(spare: int, least: float) -> None:
    draws, experts, tokens = torch.Generator().manual_seed(3), 16, 2048
    taste_ME = 1.5 * torch.randn(32, experts, generator=draws)
    topic_T = torch.multinomial(1 / torch.arange(1, 33) ** 1.1, tokens, replacement=True, generator=draws)
    topic_T[torch.rand(tokens, generator=draws) < 0.5] = 0
    scores_TE = (taste_ME[topic_T] + torch.randn(tokens, experts, generator=draws)).softmax(dim=1)
    wishes, _ = get("topk").route(scores_TE, torch.full((experts,), tokens), 2, RouterState.initial(experts))
    replicas_E = replicate(wishes.demand_E, experts + spare)
    per_slot = 1.1 * tokens * 2 / (experts + spare)
    capacity_E = (replicas_E * per_slot).ceil().long().clamp_max(tokens)
    plan, _ = get("price").route(scores_TE, capacity_E, 2, RouterState.initial(experts))
    assert float(plan.score_kept) >= least
