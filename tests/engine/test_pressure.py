"""The ladder goes up at once and comes down with patience; the service time follows what was seen."""

import pytest

from recsys.engine.pressure import Ladder, ServiceTime


def test_up_is_immediate_and_down_needs_a_quiet_while() -> None:
    ladder = Ladder(up_at=0.25, down_at=0.1, dwell_s=1.0).update(0.3, now_s=0.0)
    assert ladder.step == "redirect"
    ladder = ladder.update(0.05, now_s=1.0)
    assert ladder.step == "redirect"
    ladder = ladder.update(0.05, now_s=1.9)
    assert ladder.step == "redirect"
    assert ladder.update(0.05, now_s=2.0).step == "calm"


def test_pressure_between_the_thresholds_changes_nothing_and_restarts_the_wait() -> None:
    ladder = Ladder().update(0.5, now_s=0.0).update(0.05, now_s=1.0).update(0.2, now_s=1.5)
    assert ladder.update(0.05, now_s=2.4).step == "redirect"
    assert Ladder().update(0.2, now_s=0.0).step == "calm"


def test_service_time_finds_fixed_and_per_request_cost() -> None:
    service = ServiceTime(forget=0.2)
    assert service.step_s(8) == 0.0
    for requests in [1, 4, 8, 16] * 20:
        service.observe(requests, 0.002 + 0.001 * requests)
    assert service.step_s(8) == pytest.approx(0.010, rel=1e-6)
    assert service.wait_s(16, 16) == pytest.approx(0.018 + 0.003, rel=1e-6)


def test_service_time_with_one_batch_size_is_that_batch_s_time() -> None:
    service = ServiceTime()
    for _ in range(10):
        service.observe(4, 0.008)
    assert service.step_s(4) == pytest.approx(0.008)
    assert service.step_s(8) == pytest.approx(0.016)
