"""What the health bench makes of a trial: shares, scores and times by span, and a picture."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from recsys.bench.health import HealthOptions, HealthTrial, health_rows
from recsys.bench.health_plots import plot_health
from recsys.bench.open_loop import Outcome

OPTIONS = HealthOptions(before_s=2.0, sick_s=3.0, after_s=2.0, faults=("slow",))


def trial(share_sick: float) -> HealthTrial:
    """The expert serves a fifth, from 0.5 s into the fault `share_sick`, and again a fifth 1 s after it."""
    outcomes = [
        Outcome(n / 10, 0.2 if 20 <= n < 50 else 0.01, 503 if n == 25 else 200, "calm", 0.9 if 20 <= n < 50 else 1.0)
        for n in range(70)
    ]
    load = [(at / 4, share_sick if 2.5 <= at / 4 < 6 else 0.2, 1.0) for at in range(1, 29)]
    return HealthTrial("price", "slow", 3, outcomes, load)


def test_a_row_says_when_traffic_moved_and_came_back() -> None:
    (row,) = health_rows([trial(0.02)], 100.0, OPTIONS)
    assert row["before_p99_ms"] == pytest.approx(10)
    assert row["sick_p99_ms"] == pytest.approx(200)
    assert row["sick_answered_share"] == pytest.approx(29 / 30)
    assert row["sick_score_kept"] == pytest.approx(0.9)
    assert row["before_expert_share"] == pytest.approx(0.2)
    assert (row["moved_after_s"], row["back_after_s"]) == (0.5, 1.0)
    assert row["neither_200_nor_503"] == 0


def test_a_policy_that_does_not_move_says_so() -> None:
    (row,) = health_rows([trial(0.19)], 100.0, OPTIONS)
    assert math.isnan(float(row["moved_after_s"]))


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    plot_health([trial(0.02)], OPTIONS, tmp_path / "images" / "health.png")
    assert (tmp_path / "images" / "health.png").stat().st_size > 10_000
