"""Arrivals have the law they promise, and the seed fixes them."""

from __future__ import annotations

from collections import Counter
from random import Random
from statistics import fmean, variance

import pytest

from loadtest.arrivals import Part, arrivals_of, poisson, replayed, self_exciting
from loadtest.options import Options
from loadtest.replay import RealEvent
from loadtest.shapes import Phase


def times(*phases: Phase, seed: int = 1) -> list[float]:
    return [arrival.at_s for arrival in poisson(phases, Random(seed))]


def test_the_seed_fixes_the_arrivals() -> None:
    phase = Phase("calm", 20, 30)
    assert times(phase) == times(phase)
    assert times(phase) != times(phase, seed=2)


def test_counts_per_second_have_the_mean_and_the_variance_of_a_poisson_process() -> None:
    per_second = Counter(int(at_s) for at_s in times(Phase("calm", 2_000, 20)))
    counts = [per_second[second] for second in range(2_000)]
    assert fmean(counts) == pytest.approx(20, rel=0.02)  # 4 standard errors
    assert variance(counts) == pytest.approx(20, rel=0.15)


def test_the_rate_changes_at_the_step_and_not_before_or_after() -> None:
    phases = (Phase("calm", 100, 10), Phase("crowd", 100, 100, 0.7), Phase("after", 100, 10))
    arrivals = list(poisson(phases, Random(3)))
    count = Counter(arrival.phase.name for arrival in arrivals)
    assert count["calm"] == pytest.approx(1_000, abs=130)
    assert count["crowd"] == pytest.approx(10_000, abs=400)
    assert count["after"] == pytest.approx(1_000, abs=130)
    assert all(100 <= a.at_s < 200 for a in arrivals if a.phase.name == "crowd")
    assert sum(a.at_s < 101 for a in arrivals if a.phase.name == "crowd") == pytest.approx(100, abs=40)


def test_arrivals_are_numbered_in_order_and_within_their_phase() -> None:
    arrivals = list(poisson((Phase("calm", 5, 40), Phase("after", 5, 40)), Random(4)))
    assert [a.number for a in arrivals] == list(range(len(arrivals)))
    assert [a.at_s for a in arrivals] == sorted(a.at_s for a in arrivals)
    assert all((a.at_s < 5) == (a.phase.name == "calm") for a in arrivals)


def test_a_phase_without_rate_has_no_arrivals_and_delays_none() -> None:
    assert times(Phase("calm", 10, 0)) == []
    busy_after = times(Phase("calm", 10, 0), Phase("crowd", 10, 50))
    assert busy_after == pytest.approx([10 + at_s for at_s in times(Phase("crowd", 10, 50))])


def test_parts_add_up_to_the_load_and_are_not_the_same() -> None:
    options = Options(rate=50, duration=400)
    parts = [[a.at_s for a in arrivals_of(options, Part(index, 4))] for index in range(4)]
    assert sum(map(len, parts)) == pytest.approx(20_000, rel=0.03)
    assert all(len(part) == pytest.approx(5_000, rel=0.06) for part in parts)
    assert len({part[0] for part in parts}) == 4


def test_a_self_exciting_process_has_its_mean_and_far_more_variance_than_chance() -> None:
    """Fano factor of counts in long windows: 1 / (1 - n)^2, here 6.25, against 1 of a Poisson process."""
    phase, window = Phase("calm", 40_000, 5), 40
    at_s = [a.at_s for a in self_exciting(phase, 0.6, 1.0, Random(5))]
    counts = Counter(int(t // window) for t in at_s)
    per_window = [counts[n] for n in range(40_000 // window)]
    assert fmean(per_window) == pytest.approx(5 * window, rel=0.03)
    assert variance(per_window) / fmean(per_window) == pytest.approx(6.25, rel=0.15)
    assert at_s == sorted(at_s)


def test_parts_of_a_self_exciting_process_have_the_mean_together() -> None:
    phase = Phase("calm", 4_000, 20)
    many = [sum(1 for _ in self_exciting(phase, 0.5, 1.0, Random(n), Part(n, 2))) for n in range(2)]
    assert sum(many) == pytest.approx(80_000, rel=0.05)


def test_real_events_keep_their_rhythm_and_are_dealt_out_in_turn() -> None:
    events = [RealEvent(ts, "u", str(ts), "click") for ts in (100, 100, 150, 300)]
    phase = Phase("calm", 20, 0.2)
    assert [(a.at_s, a.event.item_id) for a in replayed(events, phase) if a.event] == [
        (0, "100"), (0, "100"), (5, "150"), (20, "300"),
    ]  # fmt: skip
    dealt = [[a.number for a in replayed(events, phase, Part(index, 2))] for index in range(2)]
    assert dealt == [[0, 2], [1, 3]]
