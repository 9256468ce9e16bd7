"""What each shape offers at each moment."""

from __future__ import annotations

from itertools import islice

import pytest

from loadtest.options import SHAPE_NAMES, Options
from loadtest.shapes import SHAPES, phase_at, phases_of, seconds_by_name


def rates(options: Options, *at_s: float) -> list[tuple[str, float] | None]:
    found = [phase_at(phases_of(options), t) for t in at_s]
    return [None if phase is None else (phase.name, phase.rate_per_s) for phase in found]


def test_steady_is_one_calm_rate_to_the_end() -> None:
    options = Options(shape="steady", rate=40, duration=10)
    assert rates(options, 0, 5, 9.99, 10) == [("calm", 40), ("calm", 40), ("calm", 40), None]


def test_flash_crowd_steps_to_ten_times_the_rate_at_once_holds_and_returns() -> None:
    options = Options(shape="flash_crowd", rate=40, duration=60, crowd_seconds=30)
    assert rates(options, 0, 14.99, 15, 44.99, 45, 59.99, 60) == [
        ("calm", 40),
        ("calm", 40),
        ("crowd", 400),
        ("crowd", 400),
        ("after", 40),
        ("after", 40),
        None,
    ]


def test_most_of_a_crowd_wants_one_category_and_nobody_else_does() -> None:
    shares = [phase.crowd_share for phase in phases_of(Options(shape="flash_crowd", crowd_share=0.8))]
    assert shares == [0, 0.8, 0]


def test_step_climbs_in_equal_steps_that_are_counted_apart() -> None:
    options = Options(shape="step", rate=10, crowd_factor=3, steps=3, duration=30)
    assert rates(options, 0, 10, 29.9, 30) == [("calm", 10), ("step 2", 20), ("step 3", 30), None]


def test_a_hot_item_is_a_flash_crowd_about_one_item() -> None:
    phases = list(phases_of(Options(shape="hot_item")))
    assert [phase.about for phase in phases if phase.crowd_share] == ["item"]
    assert [phase.rate_per_s for phase in phases] == [20, 200, 20]


def test_a_day_goes_from_the_quiet_to_the_peak_and_back_without_losing_any_time() -> None:
    phases = list(phases_of(Options(shape="diurnal", rate=10, crowd_factor=5, duration=96)))
    per_s = [phase.rate_per_s for phase in phases]
    assert sum(phase.seconds for phase in phases) == pytest.approx(96)
    assert per_s == pytest.approx(per_s[::-1])
    assert 10 < per_s[0] < 10.1
    assert 49.9 < max(per_s) < 50
    assert sum(per_s) / len(per_s) == pytest.approx(30)
    assert list(dict.fromkeys(phase.name for phase in phases)) == ["calm", "crowd", "after"]


@pytest.mark.parametrize(("shape", "ill"), [("slow_expert", 50.0), ("dead_expert", "dead")])
def test_an_expert_is_ill_in_the_middle_and_the_rate_stays(shape: str, ill: object) -> None:
    phases = list(phases_of(Options(shape=shape)))
    assert [phase.injected for phase in phases] == [None, ill, None]
    assert {phase.rate_per_s for phase in phases} == {20}


def test_demo_has_a_crowd_in_every_period_without_end() -> None:
    options = Options(shape="demo", rate=5, crowd_every=100, crowd_seconds=20)
    assert rates(options, 0, 79, 80, 99, 100, 181, 1_000_081) == [
        ("calm", 5),
        ("calm", 5),
        ("crowd", 50),
        ("crowd", 50),
        ("calm", 5),
        ("crowd", 50),
        ("crowd", 50),
    ]


def test_each_crowd_of_the_demo_is_a_new_one() -> None:
    crowds = [phase for phase in islice(phases_of(Options(shape="demo")), 8) if phase.name == "crowd"]
    assert len({id(phase) for phase in crowds}) == 4


@pytest.mark.parametrize("name", SHAPE_NAMES)
def test_every_named_shape_exists_and_begins_calm(name: str) -> None:
    assert next(SHAPES[name](Options(shape=name, events_file="events.csv"))).name == "calm"


def test_the_table_of_shapes_is_that_of_the_options() -> None:
    assert tuple(SHAPES) == SHAPE_NAMES


def test_seconds_spent_by_phase_stop_where_the_run_stopped() -> None:
    options = Options(shape="flash_crowd", duration=60, crowd_seconds=30)
    assert seconds_by_name(phases_of(options), 99) == {"calm": 15, "crowd": 30, "after": 15}
    assert seconds_by_name(phases_of(options), 20) == {"calm": 15, "crowd": 5}
    demo = Options(shape="demo", crowd_every=100, crowd_seconds=20)
    assert seconds_by_name(phases_of(demo), 250) == {"calm": 210, "crowd": 40}
