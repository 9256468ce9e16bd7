"""The routing bench on tiny sizes: complete rows, honest columns, files and pictures."""

from __future__ import annotations

import csv
from math import isnan
from pathlib import Path

import pytest
from rich.console import Console

from recsys.bench.routing import RoutingBench, run_bench
from recsys.bench.routing_report import run_and_report
from router.policies import names

TINY = RoutingBench(tokens=96, experts=(4,), factors=(1.0, 1.5), calm=2, burst=2, moved=1)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, float | str]]:
    return run_bench(TINY)


def test_every_policy_at_every_moment_and_factor(rows: list[dict[str, float | str]]) -> None:
    rivals = {"optimum", "evict_rebid", "sinkhorn_best", "loss_free_best", "arrival_reroute", "confidence_reroute"}
    assert {row["policy"] for row in rows} == {*names(), *rivals}
    assert len(rows) == 2 * 4 * len({row["policy"] for row in rows})


def test_nobody_under_hard_capacities_beats_the_optimum(rows: list[dict[str, float | str]]) -> None:
    judged = [float(row["excess_regret"]) for row in rows if not isnan(float(row["excess_regret"]))]
    assert len(judged) > 40
    assert min(judged) > -1e-5


def test_price_is_balanced_complete_and_honestly_certified(rows: list[dict[str, float | str]]) -> None:
    for row in rows:
        if row["policy"] == "price":
            assert float(row["max_over_mean_after"]) <= float(row["capacity_factor"]) + 1e-9
            assert row["dropped_share"] == row["over_capacity_share"] == 0
            assert float(row["certified_gap"]) >= float(row["excess_regret"]) - 1e-5


def test_files_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    console = Console(file=(tmp_path / "shown.txt").open("w"), width=160)
    run_and_report(TINY, tmp_path / "router.csv", tmp_path / "images", console=console, rounds=1)
    console.file.close()
    with (tmp_path / "router.csv").open() as file:
        first = next(csv.DictReader(file))
    assert {"policy", "excess_regret", "processor", "torch", "commit"} <= set(first)
    assert (tmp_path / "router-time.csv").exists()
    pictures = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert pictures == ["router-flows.png", "router-score-kept.png", "router-stream.png"]
    assert "price" in (tmp_path / "shown.txt").read_text()
