"""Arrivals are a Poisson process at the rate of the phases, and the seed fixes them."""

from __future__ import annotations

from collections import Counter
from random import Random
from statistics import fmean, variance

import pytest

from loadtest.arrivals import poisson
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
