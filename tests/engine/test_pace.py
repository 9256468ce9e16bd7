"""What may wait, and when waiting becomes pressure."""

import pytest

from recsys.engine.pace import BRISK_SHARE, PROBE, STANDING, STANDING_S, SURPLUS, Pace

SIZES = (1, 2, 4, 8, 16, 32)


def pace(*, ladder: bool = True, costs: tuple[float, ...] = (1.0, 1.0, 0.7, 0.5)) -> Pace:
    """A step of n requests takes 2 + n ms in calm, and that share of it at each height; 50 ms are allowed."""
    pace = Pace(wait_max_s=0.05, batch_max=32, ladder=ladder)
    for height, cost in enumerate(costs):
        for requests in SIZES:
            pace.learn(height, requests, cost * (0.002 + 0.001 * requests))
    return pace


def crowd(engine: Pace, *, bounded: bool = True, steps: int = STANDING) -> Pace:
    for step in range(steps):
        engine.begin(20, waited_s=0.05, behind=0, bounded=bounded, now_s=step * 0.02)
    return engine


def test_a_batch_takes_half_of_the_delay_that_is_allowed() -> None:
    assert pace().batch == 23
    slow = Pace(wait_max_s=0.001, batch_max=32, ladder=True)
    slow.learn(0, 1, 0.003)
    assert slow.allowed_s == pytest.approx(0.018)  # a device this slow may still work
    assert slow.batch >= 1
    assert Pace(wait_max_s=0.05, batch_max=32, ladder=True).batch == 32  # nothing known yet


def test_what_cannot_be_answered_within_the_allowed_delay_is_refused() -> None:
    busy = pace()
    busy.begin(23, waited_s=0.0, behind=0, bounded=True, now_s=0.0)
    assert busy.wait_s(0, 0.0) == pytest.approx(0.025 + 0.003)
    assert busy.admits(22, 1.0, 0.0)  # the step under way, and one more
    assert not busy.admits(23, 1.0, 0.0)
    assert busy.admits(23, 1.0, 0.01)  # the step is further on
    assert not busy.admits(5, 0.02, 0.0)  # its own time is shorter


def test_in_a_crowd_no_more_wait_than_the_next_batch_takes() -> None:
    pressed, calm = (Pace(wait_max_s=0.05, batch_max=8, ladder=False) for _ in range(2))
    for engine in (pressed, calm):
        for requests in (1, 8):
            engine.learn(0, requests, 0.004)
    crowd(pressed)
    calm.begin(8, waited_s=0.0, behind=0, bounded=True, now_s=0.0)
    assert calm.admits(40, 1.0, 0.0)
    assert not pressed.admits(8, 1.0, 0.1)
    assert pressed.admits(7, 1.0, 0.1)


def test_refusals_that_stand_are_pressure_and_keep_the_ladder_up_until_they_end() -> None:
    engine = pace()

    def refuse_until(until_s: float, from_s: float) -> float:
        now_s = from_s
        while now_s < until_s:
            engine.begin(1, waited_s=0.0, behind=0, bounded=True, now_s=now_s)
            assert not engine.admits(200, 1.0, now_s)
            now_s += 0.01
        return now_s

    now_s = refuse_until(STANDING_S, 0.0)
    assert engine.pressure == 0  # not yet: as long as a pause may last
    now_s = refuse_until(2 * STANDING_S, now_s)
    assert (engine.pressure, engine.height) == (1, 3)
    now_s = refuse_until(2.0, now_s)
    assert engine.height == 3
    for _ in range(300):
        now_s += 0.01
        engine.begin(1, waited_s=0.0, behind=0, bounded=True, now_s=now_s)
    assert (engine.pressure, engine.height) == (0, 0)


def test_a_caller_with_too_little_time_and_a_batch_request_say_nothing_about_a_crowd() -> None:
    engine = pace()
    for step in range(100):
        now_s = 0.01 * step
        engine.begin(1, waited_s=0.0, behind=0, bounded=True, now_s=now_s)
        assert not engine.admits(5, 0.001, now_s)
        assert not engine.admits(25, 1.0, now_s, interactive=False)
    assert engine.pressure == 0


def test_batch_requests_are_refused_first() -> None:
    busy = pace()
    busy.begin(10, waited_s=0.0, behind=0, bounded=True, now_s=0.0)
    assert busy.admits(20, 1.0, 0.0)
    assert not busy.admits(20, 1.0, 0.0, interactive=False)
    assert busy.admits(5, 1.0, 0.0, interactive=False)


def test_an_idle_engine_always_tries() -> None:
    idle = Pace(wait_max_s=0.001, batch_max=4, ladder=True)
    idle.learn(0, 1, 10.0)
    assert idle.admits(0, 0.01, 0.0)
    idle.begin(1, waited_s=0.0, behind=0, bounded=True, now_s=0.0)
    assert not idle.admits(0, 0.01, 0.0)
    idle.end(1, 0.001)
    assert idle.admits(0, 0.01, 0.0)


def test_a_crowd_is_pressure_and_a_pause_of_the_machine_is_not() -> None:
    engine = pace()
    engine.begin(20, waited_s=0.2, behind=20, bounded=True, now_s=0.0)
    assert (engine.pressure, engine.height) == (0, 0)
    for step in range(1, STANDING):
        engine.begin(20, waited_s=0.02, behind=16, bounded=True, now_s=step * 0.02)
    assert engine.pressure == pytest.approx(0.76)
    assert engine.height == 3
    for step in range(200):
        engine.begin(1, waited_s=0.0, behind=0, bounded=True, now_s=0.1 + step * 0.01)
    assert (engine.pressure, engine.height) == (0, 0)


def test_quiet_brings_calm_without_requests() -> None:
    engine = crowd(pace())
    assert engine.height == 3
    for tick in range(20):
        engine.idle(1 + tick * 0.2)
    assert engine.height == 0


def test_without_the_ladder_pressure_changes_nothing() -> None:
    engine = crowd(pace(ladder=False))
    assert engine.pressure == pytest.approx(1)
    assert engine.height == 0


def test_each_height_has_its_own_times() -> None:
    calm, pressed = pace(), crowd(pace())
    assert pressed.step_s(8) == pytest.approx(0.5 * calm.step_s(8))
    assert crowd(pace(), bounded=False).height == 2


def test_a_rung_that_economises_takes_short_steps_as_long_as_that_answers_more_than_full_effort() -> None:
    whole = pace().batch
    full_rate = whole / pace().step_s(whole)

    def rate(engine: Pace) -> float:
        return engine.batch / engine.step_s(engine.batch)

    much, some, little = (crowd(pace(costs=(1.0, 1.0, cost, 1.5))) for cost in (0.6, 0.75, 0.96))
    assert much.step_s(much.batch) <= BRISK_SHARE * much.allowed_s < much.step_s(much.batch + 1)
    assert rate(much) > SURPLUS * full_rate
    assert some.step_s(some.batch) > BRISK_SHARE * some.allowed_s
    assert rate(some) >= SURPLUS * full_rate
    assert some.batch < whole
    assert little.batch == pace(costs=(0.96,)).batch, "no gain to share"


def test_a_rung_that_saves_no_time_here_is_passed_over_and_tried_again_now_and_then() -> None:
    assert crowd(pace(costs=(1.0, 1.0, 0.7, 1.5))).height == 2
    assert crowd(pace(costs=(1.0, 1.0, 1.1, 0.6))).height == 3
    assert crowd(pace(costs=(1.0, 1.0, 1.1, 1.1))).height == 1  # balance is for more than this device's time
    engine = crowd(pace(costs=(1.0, 1.0, 0.7, 1.5)), steps=PROBE)
    assert engine.height == 3
    engine.end(20, 0.001)
