"""The parts of the service in tables and words."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from dashboard import parts
from dashboard.calls import CallCounts
from dashboard.system_answers import QueryCounts, System


@pytest.fixture
def told(made_up_service: Any) -> Any:
    """What the made-up service says of itself, with its knobs turned."""

    def tell(**knobs: Any) -> System:
        return msgspec.json.decode(made_up_service(**knobs).system().model_dump_json(), type=System)

    return tell


def test_all_is_well(told: Any) -> None:
    system = told()
    assert parts.troubles(system) == []
    table = parts.processes(system, now_ms=int(time.time() * 1e3))
    assert table["what"].to_list() == ["API", "engine", "learner", "worker"]
    assert table["heard"].to_list() == ["now"] * 4
    assert table["up for"][0] == "1 h 6 min"
    assert table["memory, MB"].to_list() == [120.5, 241.0, 361.5, 482.0]
    assert parts.groups(system).row(0) == ("features", 12, 3, 0.0, 2)
    assert parts.letters(system, now_ms=0) == "None: every event could be applied."


def test_what_somebody_should_look_at(told: Any) -> None:
    system = told(silent=("worker",), gone=("engine", "learner"), behind_s=75.0)
    no_engine, no_worker, silent, behind = parts.troubles(system)
    assert no_engine == "No engine is heard: recommendations are popular items."
    assert no_worker.startswith("No worker is heard: events wait")
    assert silent.startswith("The worker worker-3 (process 103 on made-up) fell silent 12 s ago")
    assert behind == "Group features of the stream is 1 min 15 s behind."
    table = parts.processes(system, now_ms=int(time.time() * 1e3))
    assert table["heard"].to_list() == ["now", "silent for 12 s"], "the silent last"


def test_dead_letters_in_words(told: Any) -> None:
    system = told(letters=3)
    said = parts.letters(system, now_ms=(system.dead_letters.newest_ms or 0) + 65_000)
    assert said == "**3** events could not be applied, the newest 1 min 5 s ago. Wrong in the newest: `kind` 3."


def test_what_an_api_process_answers_and_refuses_now(told: Any) -> None:
    system = told()
    first = parts.doors(system, ())
    assert first["answered, /s"].to_list() == [None], "one count is no rate"
    now = CallCounts.of(system.processes[0])
    assert now is not None
    c = now.counts
    before = CallCounts(now.process, now.ts - 2_000, QueryCounts(c.answered - 50, 0, c.refused - 6, 0, c.limited))
    rates = parts.doors(system, (before, now)).row(0, named=True)
    assert (rates["answered, /s"], rates["refused, /s"]) == (25.0, 3.0)


def test_durations() -> None:
    assert [parts.duration(s) for s in (0.2, 59, 61, 3_600, 90_061)] == ["0 s", "59 s", "1 min 1 s", "1 h", "1 d 1 h"]
