"""What a step takes is learnt for each size, and remembered while only other sizes are seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.engine.service_time import OUTLIER, ServiceTime


def seen(*sizes: int, most: int = 16, times: int = 40) -> ServiceTime:
    service = ServiceTime(most)
    for _ in range(times):
        for requests in sizes:
            service.observe(requests, 0.002 + 0.001 * requests)
    return service


def test_nothing_seen_costs_nothing() -> None:
    service = ServiceTime(16)
    assert (service.step_s(1), service.wait_s(100, 16), service.largest(0.0)) == (0.0, 0.0, 16)


def test_sizes_between_those_seen_are_on_a_line() -> None:
    service = seen(1, 4, 16)
    assert [service.step_s(n) for n in (1, 4, 8, 16)] == pytest.approx([0.003, 0.006, 0.010, 0.018])
    assert service.wait_s(17, 16) == pytest.approx(0.018 + 0.003)
    assert service.wait_s(16, 8) == pytest.approx(0.020)
    assert service.largest(0.0101) == 8
    assert service.largest(0.0001) == 1


def test_large_steps_are_remembered_while_all_are_small() -> None:
    service = seen(1, 16)
    for _ in range(1_000):
        service.observe(1, 0.003)
    assert service.step_s(16) == pytest.approx(0.018)


def test_one_pause_of_the_machine_counts_little() -> None:
    service = seen(4)
    service.observe(4, 10.0)
    assert service.step_s(4) < 0.006 * (1 + OUTLIER / 10)


def test_a_size_that_seemed_dear_once_is_tried_again() -> None:
    service = ServiceTime(16)
    service.observe(16, 1.0)
    service.observe(2, 1.0)
    for _ in range(100):
        service.observe(1, 0.003)
    assert service.step_s(2) == pytest.approx(0.006)
    assert service.largest(0.025) == 8


def test_a_machine_that_became_slower_is_followed() -> None:
    service = seen(1, 8)
    for _ in range(60):
        service.observe(8, 0.1)
    assert service.step_s(8) == pytest.approx(0.1, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 16), st.floats(1e-6, 1)), max_size=60))
def test_more_requests_never_take_less(observed: list[tuple[int, float]]) -> None:
    service = ServiceTime(16)
    for requests, seconds in observed:
        service.observe(requests, seconds)
    times = [service.step_s(n) for n in range(17)]
    assert times == sorted(times)
    assert all(service.step_s(service.largest(within_s)) <= max(within_s, times[1]) for within_s in (0.0, 0.01, 1.0))
