"""What the soak counts as a broken promise, and what it does not."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from recsys.bench.open_loop import Outcome
from recsys.bench.soak import Asked, SoakOptions, SoakRun, memory_growth, questions, soak_row, wrong
from recsys.bench.soak_plots import plot_soak
from recsys.bench.victims import Victims
from recsys.stack.processes import Processes

CATEGORIES = {f"i{n}": frozenset({"even" if n % 2 == 0 else "odd"}) for n in range(30)}
ASKED = Asked(b"{}", frozenset({"i0"}), "even", 3)


def answer(*items: str, fallback: bool = False, **more: Any) -> Outcome:
    return Outcome(**{"due_s": 1.0, "latency_s": 0.1, "status": 200, **more}, items=items, fallback=fallback)


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (answer("i2", "i4"), ""),
        (answer(fallback=True), ""),
        (answer(), "no items"),
        (answer("i2", "i2"), "an item twice"),
        (answer("i2", "i4", "i6", "i8"), "too many items"),
        (answer("i0"), "an item that was seen"),
        (answer("i99"), "an item that does not exist: i99"),
        (answer("i3"), "an item of another category"),
    ],
)
def test_a_wrong_answer_is_named(outcome: Outcome, why: str) -> None:
    assert wrong(ASKED, outcome, CATEGORIES) == why


def run_of(outcomes: list[Outcome], **more: Any) -> SoakRun:
    return SoakRun([ASKED], saturation=100.0, outcomes=outcomes, **more)


def test_promises_kept(tmp_path: Path) -> None:
    outcomes = [answer("i2"), Outcome(2.0, 0.01, 503), Outcome(3.0, 0.2, 0), answer("i4", fallback=True, due_s=4.0)]
    run = run_of(outcomes, kills=[(3.1, "api worker"), (5.0, "redis")], events_accepted=9, events_counted=9)
    run.memory = [(float(n), {"api": 100.0, "engine": 500.0 + n}) for n in range(12)]
    row = soak_row(run, SoakOptions(minutes=0.2), CATEGORIES)
    assert row["broken_promises"] == 0
    assert (row["answered"], row["refused"], row["broken_by_a_kill"], row["of_these_fallback"]) == (2, 1, 1, 1)
    assert row["memory_growth_engine"] == pytest.approx(511 / 507)
    plot_soak(run, SoakOptions(minutes=0.2), tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"outcomes": [Outcome(20.0, 0.2, 0)], "kills": [(3.0, "api worker"), (20.1, "redis")]}, "broken_otherwise"),
        ({"outcomes": [Outcome(1.0, 0.1, 500)]}, "other_status"),
        ({"outcomes": [Outcome(1.0, 1.6, 503)]}, "late"),
        ({"outcomes": [answer("i3")]}, "wrong"),
        ({"outcomes": [], "hung": 1}, "hung"),
        ({"outcomes": [], "events_accepted": 5, "events_counted": 4}, "events_lost_or_twice"),
        ({"outcomes": [], "events_accepted": 5, "events_counted": 6}, "events_lost_or_twice"),
    ],
)
def test_a_broken_promise_counts(more: dict[str, Any], name: str) -> None:
    row = soak_row(run_of(**more), SoakOptions(), CATEGORIES)
    assert (row[name], row["broken_promises"]) == (1, 1)


def test_memory_of_a_short_run_says_nothing() -> None:
    assert memory_growth([(0.0, {"api": 1.0})]) == {}


def test_questions_name_what_their_answers_must_respect(tiny_world: Path) -> None:
    asked, categories = questions(tiny_world)
    assert {one.category is None for one in asked} == {True, False}
    body = msgspec.json.decode(asked[1].body)
    assert frozenset(body["history"]) == asked[1].seen <= set(categories)
    assert body["filters"] == {"categories_any": [asked[1].category]}


def test_a_victim_dies_comes_back_and_is_measured(tmp_path: Path, eventually: Any) -> None:
    with Processes(tmp_path) as processes:
        processes.start("engine", [sys.executable, "-c", "import time; time.sleep(600)"])
        with Victims(processes, ["engine"]) as victims:
            first = processes.pid("engine")
            eventually(lambda: victims.memory_mb()["engine"] > 1, what="its memory")
            killed = {victims.kill_one(random.Random(seed)) for seed in range(8)}
            assert "engine" in killed
            assert killed <= {"engine", ""}
            eventually(lambda: processes.pid("engine") not in (None, first), what="a new one")
        assert processes.pid("engine") is None
    assert subprocess.run(["ps", "-p", str(first)], capture_output=True, check=False).returncode != 0
