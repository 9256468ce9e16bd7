"""Load as it is measured, and the capacity it leaves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from router.load import LoadTracker, capacity_from_load


def steady(tracker: LoadTracker, seconds: float, every_s: float, *, since_s: float = 0.0, rate: float = 50.0) -> float:
    """Demand of 100/s on expert 0 and 20/s on expert 1; expert 0 serves `rate` per second of work, expert 1 200."""
    now_s = since_s
    for _ in range(round(seconds / every_s)):
        now_s += every_s
        tracker.observe(
            torch.tensor([100.0, 20.0]) * every_s,
            torch.tensor([rate, 20.0]) * every_s,
            torch.tensor([1.0, 0.1]) * every_s,
            now_s=now_s,
        )
    return now_s


@given(every_s=st.sampled_from([0.1, 0.5]), half_life_s=st.floats(0.2, 20), seconds=st.integers(1, 15))
@settings(max_examples=30, deadline=None)
def test_a_steady_load_is_found_at_any_rhythm_and_from_the_first_second(
    every_s: float, half_life_s: float, seconds: int
) -> None:
    tracker = LoadTracker(torch.tensor([1.0, 1.0]), half_life_s=half_life_s)
    load = tracker.at(steady(tracker, seconds, every_s))
    coarseness = 0.7 * every_s / half_life_s  # a report counts whole at its end
    assert load.demand_per_s_E.tolist() == pytest.approx([100, 20], rel=coarseness + 1e-6)
    assert load.service_rate_E.tolist() == pytest.approx([50, 200])


def test_half_of_a_change_is_seen_after_one_half_life() -> None:
    tracker = LoadTracker(torch.tensor([1.0, 1.0]), half_life_s=2.0)
    now_s = steady(tracker, 60, 0.01)
    now_s = steady(tracker, 2, 0.01, since_s=now_s, rate=10)
    assert float(tracker.at(now_s).service_rate_E[0]) == pytest.approx(30, rel=0.01)


def test_an_idle_expert_keeps_its_rate_and_a_stuck_one_loses_it() -> None:
    tracker = LoadTracker(torch.tensor([70.0, 70.0]), half_life_s=1.0)
    none_E = torch.zeros(2)
    for second in range(1, 4000):
        tracker.observe(none_E, none_E, torch.tensor([0.0, 1.0]), now_s=second)
    load = tracker.at(4000)
    assert load.service_rate_E.tolist() == [70, 0]
    assert load.demand_per_s_E.tolist() == [0, 0]


def test_two_reports_at_one_instant_add_up() -> None:
    once, twice = (LoadTracker(torch.tensor([5.0])) for _ in range(2))
    once.observe(torch.tensor([6.0]), torch.tensor([4.0]), torch.tensor([2.0]), now_s=1)
    for _ in range(2):
        twice.observe(torch.tensor([3.0]), torch.tensor([2.0]), torch.tensor([1.0]), now_s=1)
    assert once.at(3) == twice.at(3)
    assert float(once.at(1).service_rate_E) == 2


def test_wrong_observations_are_named() -> None:
    tracker = LoadTracker(torch.ones(2))
    good_E = torch.ones(2)
    tracker.observe(good_E, good_E, good_E, now_s=5)
    with pytest.raises(ValueError, match=r"now_s must be >= 5"):
        tracker.observe(good_E, good_E, good_E, now_s=4)
    with pytest.raises(ValueError, match=r"now_s must be >= 5"):
        tracker.at(float("nan"))
    with pytest.raises(ValueError, match="served must be finite and >= 0"):
        tracker.observe(good_E, torch.tensor([1.0, torch.nan]), good_E, now_s=6)
    with pytest.raises(ValueError, match=r"busy_s must have shape \(2,\)"):
        tracker.observe(good_E, good_E, torch.ones(3), now_s=6)
    with pytest.raises(ValueError, match="half_life_s must be > 0"):
        LoadTracker(good_E, half_life_s=0)
    with pytest.raises(ValueError, match="service_rate must be finite"):
        LoadTracker(torch.tensor([-1.0]))


def test_one_formula_for_fast_slow_late_draining_and_dead_experts() -> None:
    capacity_E = capacity_from_load(
        torch.tensor([1000.0, 250.0, 1000.0, 1000.0, 1000.0, 0.0]),
        torch.tensor([0.0, 0.0, 40.0, 500.0, 0.0, 0.0]),
        horizon_s=0.1,
        most=120,
        target_backlog=10,
        alive_E=torch.tensor([True, True, True, True, False, True]),
    )
    assert capacity_E.tolist() == [110, 35, 70, 0, 0, 0]
    assert capacity_E.dtype == torch.int64


rates = st.lists(st.floats(0, 1e6), min_size=1, max_size=8)


@given(rates=rates, horizon_s=st.floats(0, 10), most=st.integers(0, 5000), data=st.data())
def test_capacity_is_within_bounds_and_moves_the_right_way(
    rates: list[float], horizon_s: float, most: int, data: st.DataObject
) -> None:
    rate_E = torch.tensor(rates, dtype=torch.float64)
    size = len(rates)
    backlog_E = torch.tensor(data.draw(st.lists(st.floats(0, 1e6), min_size=size, max_size=size)), dtype=torch.float64)
    capacity_E = capacity_from_load(rate_E, backlog_E, horizon_s=horizon_s, most=most)
    assert ((capacity_E >= 0) & (capacity_E <= most)).all()
    assert not capacity_E[rate_E == 0].any()
    assert (capacity_E <= rate_E * horizon_s + 1).all()
    longer_E = capacity_from_load(rate_E, backlog_E + 3, horizon_s=horizon_s, most=most)
    faster_E = capacity_from_load(rate_E * 2, backlog_E, horizon_s=horizon_s, most=most)
    assert (longer_E <= capacity_E).all()
    assert (faster_E >= capacity_E).all()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"horizon_s": -1.0}, "horizon_s must be >= 0"),
        ({"horizon_s": float("nan")}, "horizon_s must be >= 0"),
        ({"most": -1}, "most must be >= 0"),
        ({"target_backlog": float("inf")}, "target_backlog must be >= 0 and finite"),
        ({"alive_E": torch.ones(2)}, "alive must be bool"),
        ({"alive_E": torch.ones(3, dtype=torch.bool)}, "alive must be bool of shape"),
    ],
)
def test_wrong_bounds_are_named(broken: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        capacity_from_load(torch.ones(2), torch.zeros(2), **{"horizon_s": 1.0, "most": 5, **broken})  # type: ignore[arg-type]
