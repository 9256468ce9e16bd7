"""`recsys burst`: what it can be told, the table that it writes, and a whole short run."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from rich.console import Console

from recsys.bench.burst import Arm, BurstOptions
from recsys.bench.burst_story import AS_IT_RUNS, StoryOptions, tell_story
from recsys.errors import InputError, UnavailableError


def test_arms_are_policies_with_or_without_the_ladder() -> None:
    assert StoryOptions(arms=("topk:off", " price")).compared() == (Arm("topk", "off"), Arm("price", "on"))
    assert StoryOptions(arms=("price",), api="http://127.0.0.1:1").compared() == (Arm("price", AS_IT_RUNS),)


@pytest.mark.parametrize(
    ("arms", "api", "complaint"),
    [
        (("price:of",), "", "'price:of' is not POLICY or POLICY:off"),
        (("",), "", "'' is not"),
        (("topk:off",), "http://127.0.0.1:1", "the ladder of a running service stays as it is"),
    ],
)
def test_arms_that_make_no_sense_are_named(arms: tuple[str, ...], api: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        StoryOptions(arms=arms, api=api).compared()


def test_a_crowd_of_one_category_is_more_than_experts_with_a_device_each_can_answer() -> None:
    shared, own = StoryOptions().burst(), StoryOptions(lane_us=50.0, quick=True).burst()
    assert (shared.rate_at(15, 100), own.rate_at(5, 100)) == (300, 600)


def test_a_service_that_is_not_there_is_said(tmp_path: Path) -> None:
    options = StoryOptions(arms=("price",), api="http://127.0.0.1:1", out=tmp_path)
    with pytest.raises(UnavailableError, match=r"http://127\.0\.0\.1:1/v1/router"):
        tell_story(options, Console(quiet=True))


@pytest.mark.e2e
def test_a_crowd_from_start_to_picture(
    tiny_world: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "world").symlink_to(tiny_world)
    (tmp_path / "model").symlink_to(tiny_model)
    monkeypatch.delenv("REDIS_URL", raising=False)
    short = {"calm_s": 0.5, "crowd_s": 0.5, "after_s": 0.5, "saturate_s": 0.4}
    monkeypatch.setattr(BurstOptions, "quick", staticmethod(lambda arms: BurstOptions(arms, **short)))
    options = StoryOptions(arms=("topk", "price"), folder=tmp_path, quick=True, lane_us=1.0, out=tmp_path / "out")
    rows = tell_story(options, Console(quiet=True))
    assert [row["policy"] for row in rows] == ["topk", "price"]
    assert [row["lane_us"] for row in rows] == [1.0, 1.0]
    assert [row["neither_200_nor_503"] for row in rows] == [0, 0]
    assert all("goodput_per_s" in row for row in rows)  # which may be 0 in half a second on a busy machine
    assert (tmp_path / "out" / "burst.png").stat().st_size > 10_000
    with (tmp_path / "out" / "burst.csv").open() as file:
        assert [line["policy"] for line in csv.DictReader(file)] == ["topk", "price"]
    assert (tmp_path / "out" / "burst.md").read_text().startswith("One emulated device per expert, 1 µs a slot.")
    told = (tmp_path / "out" / "burst.md").read_text().splitlines()
    assert len({line.count("|") for line in told if line.startswith("|")}) == 1
    assert sum(line.startswith(("| topk | on |", "| price | on |")) for line in told) == 2
