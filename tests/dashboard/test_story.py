"""The sentence above the charts."""

from __future__ import annotations

import polars as pl
import pytest

from dashboard.moves import moves
from dashboard.story import guide, shedding, tell


def now(demand: list[float], served: list[float], moved: float = 0.0, room: float = 1.25) -> pl.DataFrame:
    mean = sum(demand) / len(demand) or 1.0
    return pl.DataFrame(
        {
            "expert": range(len(demand)), "demand": demand, "served": served, "demand_x": [d / mean for d in demand],
            "capacity": [room * mean] * len(demand), "moved_in": [moved / len(demand)] * len(demand),
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("demand", "served", "mood"),
    [
        ([0.0, 0.0], [0.0, 0.0], "quiet"),
        ([1.0, 1.1, 0.9, 1.0], [1.0, 1.1, 0.9, 1.0], "calm"),
        ([70.0, 10.0, 10.0, 10.0], [28.0, 24.0, 24.0, 24.0], "balanced"),
        ([70.0, 10.0, 10.0, 10.0], [70.0, 10.0, 10.0, 10.0], "overrun"),
    ],
)
def test_moods(demand: list[float], served: list[float], mood: str) -> None:
    assert tell(now(demand, served), score_kept=1.0).mood == mood


def test_a_crowd_is_named_with_its_numbers() -> None:
    story = tell(now([70, 10, 10, 10], [28, 24, 24, 24], moved=42), score_kept=0.987)
    assert story.title == "Crowd on expert 0, work stays even"
    assert "2.8× the mean" in story.text
    assert "42% of the work was redirected; 98.7% of the gate score is kept" in story.text


def test_uneven_is_no_crowd_while_everything_fits() -> None:
    story = tell(now([70, 10, 10, 10], [70, 10, 10, 10], room=8.0), score_kept=1.0)
    assert (story.mood, story.title) == ("uneven", "Uneven, with room: expert 0 leads")
    assert "nothing has to move" in story.text
    some = tell(now([70, 10, 10, 10], [69, 11, 10, 10], moved=1, room=8.0), score_kept=1.0)
    assert (some.mood, "little of it has to move" in some.text) == ("uneven", True)


@pytest.mark.parametrize(
    ("demand", "served", "room", "title"),
    [
        ([0.0, 0.0], [0.0, 0.0], 1.25, "Overload: no query reaches an expert"),
        ([1.0, 1.1, 0.9, 1.0], [1.0, 1.1, 0.9, 1.0], 1.25, "Overload, and work is even"),
        ([70.0, 10.0, 10.0, 10.0], [70.0, 10.0, 10.0, 10.0], 8.0, "Overload, though the experts have room"),
        ([70.0, 10.0, 10.0, 10.0], [28.0, 24.0, 24.0, 24.0], 1.25, "Crowd on expert 0, work stays even"),
    ],
)
def test_no_title_contradicts_refusals(demand: list[float], served: list[float], room: float, title: str) -> None:
    told = tell(now(demand, served, room=room), score_kept=1.0)
    story = shedding(told, 0.75)
    assert story.title == title
    before = "" if told.mood == "quiet" else f"{told.text} "
    assert story.text == f"{before}75% of the queries are shed."
    assert shedding(told, 0.001) is told


def test_two_crowds() -> None:
    story = tell(now([40, 40, 1, 1, 1, 1], [14] * 6), score_kept=1.0)
    assert story.title.startswith("Crowd on experts 0 and 1")


def test_the_guide_says_what_to_do_next_and_promises_a_break_only_with_a_device_each() -> None:
    assert "Now flip to plain top-k" in guide("during", policy="price", lane_us=60.0)
    assert "p99 rises" in guide("during", policy="topk", lane_us=60.0)
    assert "costs little" in guide("during", policy="topk", lane_us=0.0)
    assert guide("before", policy="price", lane_us=0.0).startswith("Calm")
    assert "report" in guide("after", policy="price", lane_us=0.0)


def test_moves_between_two_lists() -> None:
    change = moves(["a", "b", "c"], ["c", "a", "d"])
    assert change.places == {"c": 2, "a": -1}
    assert change.came == {"d"}
    assert change.went == ("b",)
    assert not moves(["a"], ["a"])
