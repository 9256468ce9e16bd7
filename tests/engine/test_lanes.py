"""Lanes made slow or dead cost time, are found out by it, and come back by themselves."""

from __future__ import annotations

import time

import pytest
import torch

from recsys.engine.lanes import DEAD, LANE_TIMEOUT_S, LATE_MAX_S, Lanes
from router.router import Router
from router.shapes import RoutingPlan

EXPERTS = 4


def one_step(lanes: Lanes, router: Router, seconds: float = 0.004) -> tuple[RoutingPlan, bool, float]:
    """(plan, finished, seconds waited) of 200 tokens that want all experts alike."""
    router.set_health(lanes.health_E(time.monotonic()))
    scores_TE = torch.rand(200, EXPERTS, generator=torch.Generator().manual_seed(1)).softmax(1)
    plan = router.route(0, scores_TE, 2, torch.zeros(EXPERTS))
    began = time.perf_counter()
    finished = lanes.finish([plan], seconds)
    return plan, finished, time.perf_counter() - began


@pytest.fixture
def router() -> Router:
    return Router("price", capacity_factor=1.0, layers=1, experts=EXPERTS)


def test_lanes_that_are_well_cost_nothing(router: Router) -> None:
    lanes = Lanes(EXPERTS)
    for _ in range(3):
        _, finished, _ = one_step(lanes, router)
        assert finished
    assert lanes.health_E(time.monotonic()).tolist() == [1.0] * EXPERTS


def test_a_slow_lane_costs_its_load_times_its_delay_and_has_less_of_it_in_the_second_step(router: Router) -> None:
    lanes = Lanes(EXPERTS)
    lanes.follow({}, {2: 2e-4})
    before, finished, waited_s = one_step(lanes, router)
    assert finished
    assert int(before.load_E[2]) == 100
    assert waited_s >= 100 * 2e-4
    for _ in range(2):
        plan, _, _ = one_step(lanes, router)
        assert int(plan.load_E[2]) <= 10  # a slot takes 10 us, and 200 us more there
        assert int(plan.load_E.sum()) == 400  # nothing is dropped
    assert lanes.health_E(time.monotonic())[[0, 1, 3]].tolist() == [1.0] * 3


def test_no_injection_stops_the_engine(router: Router) -> None:
    lanes = Lanes(EXPERTS)
    lanes.follow({}, {0: 0.1, 1: 0.1})
    _, finished, waited_s = one_step(lanes, router)
    assert finished
    assert waited_s < 5  # not the ten seconds that 100 slots would take


def test_lanes_of_their_own_last_as_long_as_the_fullest_and_are_all_well(router: Router) -> None:
    lanes = Lanes(EXPERTS)
    lanes.follow({}, {}, 1e-4)
    plan, finished, waited_s = one_step(lanes, router)
    assert finished
    assert lanes.own_s([plan, plan]) == pytest.approx(2 * int(plan.load_E.max()) * 1e-4)
    assert waited_s >= int(plan.load_E.max()) * 1e-4
    assert lanes.health_E(time.monotonic()).tolist() == [1.0] * EXPERTS


def test_among_lanes_of_their_own_the_one_that_takes_twice_as_long_has_half_its_capacity(router: Router) -> None:
    lanes = Lanes(EXPERTS)
    lanes.follow({}, {1: 1e-5}, 1e-5)
    for _ in range(3):
        one_step(lanes, router)
    assert lanes.health_E(time.monotonic()).tolist() == pytest.approx([1, 0.5, 1, 1])


def test_what_a_lane_takes_of_itself_is_never_cut(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    waits_s: list[float] = []
    monkeypatch.setattr(time, "sleep", waits_s.append)
    lanes = Lanes(EXPERTS)
    lanes.follow({}, {2: 0.1}, 0.01)
    plan, _, _ = one_step(lanes, router)
    assert waits_s == [pytest.approx(int(plan.load_E[2]) * 0.01 + LATE_MAX_S)]


def test_a_dead_lane_makes_the_step_run_again_without_it(router: Router) -> None:
    lanes = Lanes(EXPERTS)
    lanes.follow({}, {0: DEAD})
    _, finished, waited_s = one_step(lanes, router)
    assert not finished
    assert waited_s >= LANE_TIMEOUT_S
    plan, finished, _ = one_step(lanes, router)
    assert finished
    assert int(plan.load_E[0]) == 0
    assert int(plan.load_E.sum()) == 400


@pytest.mark.parametrize("delay_s", [2e-4, DEAD], ids=["slow", "dead"])
def test_what_is_well_again_gets_all_of_its_load_back(router: Router, delay_s: float) -> None:
    lanes = Lanes(EXPERTS)
    lanes.follow({}, {1: delay_s})
    for _ in range(3):
        one_step(lanes, router)
    assert float(lanes.health_E(time.monotonic())[1]) < 0.2
    lanes.follow({}, {})
    deadline = time.monotonic() + 20
    while lanes.health_E(time.monotonic()).tolist() != [1.0] * EXPERTS:
        assert time.monotonic() < deadline
        one_step(lanes, router)
        time.sleep(0.001)


def test_what_people_say_multiplies_what_is_measured() -> None:
    lanes = Lanes(EXPERTS)
    lanes.follow({3: 0.5}, {})
    assert lanes.health_E(0.0).tolist() == [1, 1, 1, 0.5]
    for wrong in ({4: 0.5},):
        with pytest.raises(ValueError, match="no expert 4, there are 4"):
            lanes.follow(wrong, {})
        with pytest.raises(ValueError, match="inject: no expert 4"):
            lanes.follow({}, wrong)
    assert lanes.health_E(0.0).tolist() == [1, 1, 1, 0.5]
