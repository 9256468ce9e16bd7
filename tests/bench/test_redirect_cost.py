"""What redirects cost, on a small model that was trained a little."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from recsys.bench.redirect_cost import RedirectOptions, over_seeds, plot, redirect_cost, traffics
from recsys.training.config import TrainConfig
from recsys.training.evaluate import Row, kept_out
from recsys.training.train import train

OPTIONS = RedirectOptions(factors=(2.0, 1.0, 0.5), requests=48, batch=12, candidates=40)


@pytest.fixture(scope="module")
def model(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    config = TrainConfig.from_json(
        {"model": {"width": 16, "expert_hidden": 16}, "retrieval_epochs": 3, "ranking_epochs": 1, "batch": 16}
    )
    train(tiny_world, folder, config, console=Console(quiet=True))
    return folder


@pytest.fixture(scope="module")
def rows(model: Path, tiny_world: Path) -> list[Row]:
    return redirect_cost(model, tiny_world, OPTIONS, Console(quiet=True))


def test_scarcer_slots_keep_less_of_the_score(rows: list[Row]) -> None:
    for traffic in ("calm", "crowd"):
        for policy in ("drop", "expanded_drop", "phase", "price"):
            line = [row for row in rows if (row["traffic"], row["policy"]) == (traffic, policy)]
            assert [row["capacity_factor"] for row in line] == [2.0, 1.0, 0.5]
            assert line[-1]["slots_per_token"] <= 1.05
            kept = [row["score_kept"] for row in line]
            assert kept == sorted(kept, reverse=True) or policy == "phase"
        by_policy = {
            row["policy"]: row["score_kept"]
            for row in rows
            if row["traffic"] == traffic and row["capacity_factor"] == 0.5
        }
        assert max(by_policy, key=by_policy.__getitem__) in {"topk", "price"}


def test_without_limits_nothing_is_lost(rows: list[Row]) -> None:
    for row in rows:
        if row["policy"] == "without limits":
            assert (row["lost_percent"], row["score_kept"], row["redirected"]) == (0.0, 1.0, 0.0)
            assert row["slots_per_token"] == 2.0


def test_a_crowd_wants_one_category(model: Path, tiny_world: Path) -> None:
    kept = kept_out(model, tiny_world)
    shares = {}
    for name, batches in traffics(kept, OPTIONS).items():
        cases = np.concatenate(batches)
        assert len(set(cases.tolist())) == len(cases) == 48
        items = np.concatenate(kept.cases.histories(cases, newest=20)[0])
        shares[name] = float(kept.catalogue.features.categories_IC[items].mean(0).max())
    assert shares["crowd"] > 1.1 * shares["calm"]


def test_the_command_writes_rows_and_a_picture(
    model: Path, tiny_world: Path, tmp_path: Path, run_process: Callable[[list[str], dict[str, str]], tuple[int, str]]
) -> None:
    command = ["bench", "redirect-cost", str(tiny_world), str(model), "--requests", "24", "--policies", "price"]
    code, shown = run_process([*command, "--out", str(tmp_path / "r.csv"), "--image", str(tmp_path / "r.png")], {})
    assert code == 0, shown
    with (tmp_path / "r.csv").open() as file:
        assert {row["policy"] for row in csv.DictReader(file)} == {"without limits", "price"}
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_seeds_become_one_row(rows: list[Row]) -> None:
    other = [row | {"lost_percent": row["lost_percent"] + 1} for row in rows]
    unready = [row | {"redirect_ready": False} for row in rows]
    for row, mean in zip([*rows, *unready], over_seeds([*rows, *other, *unready]), strict=True):
        shift = 0.5 if row["redirect_ready"] else 0.0
        assert mean["lost_percent"] == pytest.approx(row["lost_percent"] + shift, abs=1e-4)
        assert mean["lost_highest"] - mean["lost_lowest"] == pytest.approx(2 * shift)
        assert mean["models"] == 1 + row["redirect_ready"]


def test_a_picture_of_two_ways_of_training(rows: list[Row], tmp_path: Path) -> None:
    plot(over_seeds([*rows, *(row | {"redirect_ready": False} for row in rows)]), tmp_path / "two.png")
    assert (tmp_path / "two.png").stat().st_size > 10_000
