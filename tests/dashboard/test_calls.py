"""What the API turned away, from counters that only grow."""

from __future__ import annotations

import pytest

from dashboard import frames
from dashboard.calls import CallCounts, turned_away
from dashboard.system_answers import QueryCounts

T0 = 1_700_000_000_000  # the beginning of a bin


def counted(ts: int, away: int, *, limited: int = 0, process: str = "a") -> CallCounts:
    return CallCounts(process, ts, QueryCounts(0, 0, away, away, limited))


def rates(*calls: CallCounts, newest_ms: int = T0 + 1_999) -> dict[float, float]:
    return dict(turned_away(calls, newest_ms=newest_ms, bin_ms=frames.BIN_MS).iter_rows())


def test_a_rate_is_a_difference_over_its_own_time() -> None:
    assert rates(counted(T0 - 1_000, 100), counted(T0, 100), counted(T0 + 1_000, 140, limited=10)) == {-2.0: 25.0}
    assert rates(counted(T0 - 3_000, 0), counted(T0 - 1_000, 10), counted(T0 + 1_000, 10)) == {-4.0: 5.0, -2.0: 0.0}


def test_several_processes_add_up_and_a_new_one_has_no_rate_yet() -> None:
    a, b = (
        [counted(T0 + 500 * n, 50 * n) for n in range(3)],
        [counted(T0 + 500 * n, 10 * n, process="b") for n in range(3)],
    )
    assert rates(*a, *b, counted(T0 + 1_000, 10**6, process="c")) == {-2.0: pytest.approx(120.0)}


def test_a_pause_of_the_board_loses_nothing_and_a_fast_clock_is_not_the_future() -> None:
    assert rates(counted(T0 - 60_000, 0), counted(T0, 600)) == {-2.0: 10.0}
    assert rates(counted(T0 + 7_000, 0), counted(T0 + 8_000, 5)) == {-2.0: 5.0}
    assert rates() == {}
