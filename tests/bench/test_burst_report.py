"""The tables of a crowd: rounds by their medians, aims that are met and missed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from recsys.bench.burst import BurstOptions, Trial
from recsys.bench.burst_report import markdown_of
from recsys.bench.burst_rows import Row, rows_of
from recsys.bench.commands import add_to_csv, bench
from recsys.bench.open_loop import Outcome

OPTIONS = BurstOptions(calm_s=1.0, crowd_s=1.0, after_s=1.0, lane_us=20.0)


def trial(policy: str, ladder: str, answers: int, *, repeat: int = 0, kept: float = 1.0) -> Trial:
    """So many answers of the second of crowd, after 20 ms; 10 ms in calm and at the same rate."""
    calm = [Outcome(n / 10, 0.010, 200, "calm") for n in range(10)]
    crowd = [Outcome(1 + n / 300, 0.020, 200 if n < answers else 503, score_kept=kept) for n in range(300)]
    after = [Outcome(2 + n / 10, 0.010, 200, "calm") for n in range(10)]
    same = [Outcome(n / 100, 0.018, 200) for n in range(100)]
    return Trial(policy, ladder, "one category", repeat, calm + crowd + after, same)


@pytest.fixture
def rows() -> list[Row]:
    trials = [
        trial("topk-padded", "off", 80),
        trial("drop", "on", 150, kept=0.5),
        *(trial("price", "on", answers, repeat=n, kept=0.9) for n, answers in enumerate((170, 200, 90))),
    ]
    found = rows_of(trials, 100.0, OPTIONS)
    for row in found:  # those of other rounds have no rivals beside them
        row["answers_over_padded"] = float(row["accepted_per_s"]) / 80
        row["score_kept_over_drop"] = float(row["score_kept_crowd"]) - 0.5
    return found


def test_each_arm_is_one_line_and_each_aim_says_whether_it_is_met(rows: list[Row]) -> None:
    lines = markdown_of(rows).splitlines()
    assert lines[0].startswith("One emulated device per expert, 20 µs a slot")
    (ours,) = [line for line in lines if line.startswith("| **price** | **on** |")]
    assert "| 170 | 1.70 | 2.12 | 10 → 20 | 1.11 | 90.0% |" in ours
    aims = {line.split(" | ")[0]: line.split(" | ")[1] for line in lines[lines.index("| aim | found |") + 2 :]}
    assert aims["| `price` answers twice as many as padded top-k in the flash crowd"] == "2.12 ×: met |"
    assert aims["| ... and more than any policy without the ladder"].endswith("170/s, at most 80/s: met |")
    assert all(found.endswith(": met |") for found in aims.values())


def test_what_is_missed_is_said(rows: list[Row]) -> None:
    worse = [row | {"crowd_p99_over_same_rate": 1.3, "neither_200_nor_503": 1} for row in rows]
    found = markdown_of(worse)
    assert "one category 1.30: missed" in found
    assert "3 others in 3 arms: missed" in found  # the median of the rounds, over the arms


def test_one_device_for_all_is_said_too(rows: list[Row]) -> None:
    assert markdown_of([row | {"lane_us": 0.0} for row in rows]).startswith("All experts on one device")


def test_a_csv_file_gives_the_same_tables_back(rows: list[Row], tmp_path: Path) -> None:
    add_to_csv(rows, tmp_path / "burst.csv", replace=True)
    shown = CliRunner().invoke(bench, ["burst-table", str(tmp_path / "burst.csv")])
    assert shown.exit_code == 0
    assert shown.output.strip() == markdown_of(rows)
