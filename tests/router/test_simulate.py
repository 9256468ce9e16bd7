"""Policies on simulated devices: what balance is for, seen end to end."""

from __future__ import annotations

import math

import pytest
import torch

from router.gates import TopicGates
from router.lanes import Fault
from router.policies import get
from router.simulate import Phase, Scenario, Trace, crowd_story, recovery_s, run, summary

SMALL = Scenario(tokens=128, lanes=8, slots_per_s=1000, utilisation=0.7, phases=crowd_story(6.0), panel=16, moves_s=0.2)


def traced(policy: str, scenario: Scenario = SMALL) -> Trace:
    return run(get(policy), TopicGates(8, seed=1), scenario)


def test_a_burst_drowns_hot_lanes_under_topk_and_not_under_price() -> None:
    plain, priced = traced("topk"), traced("price")
    of_plain, of_priced = summary(plain.of_phase(1), SMALL), summary(priced.of_phase(1), SMALL)
    assert of_plain["goodput_share"] < 0.95
    assert of_priced["goodput_share"] == 1
    assert of_priced["p99_ms"] < 1.1e3 * SMALL.interval_s < of_plain["p99_ms"]
    assert recovery_s(plain, SMALL) == math.inf
    assert recovery_s(priced, SMALL) == 0


def test_the_same_run_twice_is_the_same_to_the_bit() -> None:
    first, second = traced("price"), traced("price")
    assert torch.equal(first.step_s_N, second.step_s_N)
    assert torch.equal(first.kept_N, second.kept_N)


def test_a_dead_lane_costs_until_it_is_noticed_and_a_slow_one_until_it_is_measured() -> None:
    faults = (Fault(2, 0.0, from_s=1.0, to_s=3.0), Fault(5, 0.25, from_s=4.0))
    scenario = Scenario(
        tokens=128, lanes=8, slots_per_s=1000, phases=(Phase("calm", 7.0),), panel=16, faults=faults, noticed_s=0.2
    )
    trace = traced("price", scenario)
    recovered = recovery_s(trace, scenario)
    assert 0.1 < recovered < 2
    lost_N = trace.served_N < 256
    assert not lost_N[(trace.time_s_N > 1.5) & (trace.time_s_N < 3)].any()
    assert trace.step_s_N[trace.time_s_N > 6.5].max() < 1.25 * scenario.interval_s


def test_spare_slots_follow_the_crowd_and_keep_more_score() -> None:
    scenario = Scenario(
        tokens=128, lanes=12, slots_per_s=667, phases=(Phase("burst", 12.0, 0),), panel=16, utilisation=0.9, moves_s=0.5
    )
    with_spare = Scenario(
        tokens=128,
        lanes=12,
        slots_per_s=667,
        phases=(Phase("burst", 12.0, 0),),
        panel=16,
        utilisation=0.9,
        moves_s=0.5,
        spare=4,
    )
    without, spared = traced("price", scenario), traced("price", with_spare)
    late_N = spared.time_s_N > 8
    assert spared.moves >= 1
    assert float(spared.kept_N[late_N].mean()) >= float(without.kept_N[late_N].mean())


def test_oscillation_counts_tokens_that_change_experts() -> None:
    calm = Scenario(tokens=128, lanes=8, slots_per_s=1000, phases=(Phase("calm", 2.0),), panel=16)
    assert summary(traced("topk", calm), calm)["switches_per_min"] == 0
    assert summary(traced("hash", calm), calm)["switches_per_min"] > 0.5 * 60 / calm.interval_s


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"tokens": 0}, "tokens must be >= 1"),
        ({"utilisation": 0.0}, "utilisation must be > 0"),
        ({"deadline_s": math.nan}, "deadline_s must be > 0"),
        ({"panel": 4000}, "panel in"),
        ({"phases": ()}, "phases must last"),
    ],
)
def test_wrong_numbers_are_named(broken: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scenario(**broken)  # type: ignore[arg-type]
