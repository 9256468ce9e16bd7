"""The ladder goes up at once and comes down with patience."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from recsys.engine.pressure import HIGHEST_UNBOUNDED, RUNGS, Ladder, Limits, effort

LIMITS = Limits(factor=1.5, factor_min=1.0, factor_economise=0.6, candidates=200, candidates_economise=80, batch=16)


def steps(ladder: Ladder) -> str:
    return ladder.rung(bounded=True).step


def test_up_is_immediate_and_as_far_as_the_pressure_says() -> None:
    calm = Ladder()
    assert [calm.update(p, now_s=0.0).height for p in (0.0, 0.24, 0.25, 0.5, 0.75, 3.0)] == [0, 0, 1, 2, 3, 3]


def test_down_is_one_rung_after_each_quiet_while() -> None:
    ladder = Ladder(dwell_s=0.5).update(1.0, now_s=0.0)
    heights = []
    for tick in range(1, 22):
        ladder = ladder.update(0.01, now_s=tick * 0.1)
        heights.append(ladder.height)
    assert heights[4] == 3
    assert heights[5] == 2
    assert heights[-1] == 0
    assert all(before - after in (0, 1) for before, after in itertools.pairwise(heights))


def test_pressure_between_the_thresholds_changes_nothing_and_restarts_the_wait() -> None:
    ladder = Ladder(dwell_s=1.0).update(0.3, now_s=0.0).update(0.05, now_s=1.0).update(0.2, now_s=1.5)
    ladder = ladder.update(0.05, now_s=2.4).update(0.05, now_s=3.3)
    assert steps(ladder) == "redirect"
    assert steps(ladder.update(0.05, now_s=3.4)) == "calm"


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 2)), max_size=50))
def test_the_height_never_falls_by_more_than_one_and_never_below_the_pressure(seen: list[tuple[float, float]]) -> None:
    ladder, now_s = Ladder(), 0.0
    for pressure, later_s in seen:
        now_s += later_s
        before, ladder = ladder, ladder.update(pressure, now_s=now_s)
        assert ladder.height >= before.height - 1
        assert pressure < RUNGS[ladder.height].up_at or ladder.height == 3 or pressure < RUNGS[ladder.height + 1].up_at


def test_fewer_slots_are_only_for_policies_that_bound_the_load() -> None:
    ladder = Ladder().update(1.0, now_s=0.0)
    assert ladder.rung(bounded=True).fewer_slots
    assert ladder.rung(bounded=False) == RUNGS[HIGHEST_UNBOUNDED]
    assert ladder.rung(bounded=False).fewer_candidates
    assert not ladder.rung(bounded=False).fewer_slots


def test_each_rung_costs_no_more_than_the_one_below() -> None:
    calm, redirect, fewer, slots = (effort(rung, LIMITS) for rung in RUNGS)
    assert (calm.capacity_factor, calm.tokens_min, calm.candidates) == (1.5, 3200, 200)
    assert (redirect.capacity_factor, redirect.tokens_min, redirect.candidates) == (1.0, 3200, 200)
    assert (fewer.capacity_factor, fewer.tokens_min, fewer.candidates) == (1.0, 1280, 80)
    assert (slots.capacity_factor, slots.tokens_min, slots.candidates) == (0.6, 1280, 80)
    assert [e.step for e in (calm, redirect, fewer, slots)] == ["calm", "redirect", "economise", "economise"]
