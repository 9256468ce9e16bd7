"""A request without a chance is refused before it is read; an estimate never shuts the door for ever."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from recsys.api.congestion import STANDING, TICK_S, Congestion


def test_everything_is_let_in_before_anything_is_known() -> None:
    congestion = Congestion(free=1, deadline_s=0.5)
    with congestion.request(), congestion.request():
        assert congestion.admits(0.001)


def test_what_waits_is_weighed_by_what_a_request_costs() -> None:
    congestion = Congestion(free=2, deadline_s=0.5)
    for _ in range(200):
        with congestion.request():
            time.sleep(0.001)  # the work itself
    cost_s = congestion.wait_s
    assert cost_s >= 0.0009
    with congestion.request(), congestion.request(), congestion.request():
        assert not congestion.admits(cost_s)
        assert congestion.admits(10 * cost_s)
    assert congestion.admits(0)  # nothing is in flight: it is tried


def test_what_is_read_after_a_pause_may_have_waited_as_long() -> None:
    async def run() -> None:
        congestion = Congestion(free=1, deadline_s=0.5)
        assert congestion.unread_s == 0
        congestion.start()
        for _ in range(3):
            await asyncio.sleep(TICK_S)
        time.sleep(0.2)  # noqa: ASYNC251 - what must not happen to a loop
        assert congestion.unread_s >= 0.2 - 2 * TICK_S
        await asyncio.sleep(0)  # a tick, and then what came meanwhile
        assert congestion.unread_s >= 0.2 - 2 * TICK_S
        async with asyncio.timeout(20):
            while congestion.unread_s >= 0.2 - 2 * TICK_S:  # noqa: ASYNC110 - until ticks, which have no event, forget it
                await asyncio.sleep(TICK_S)
        await congestion.close()

    asyncio.run(run())


def test_refusals_of_an_engine_bound_what_is_in_flight_and_answers_widen_it() -> None:
    congestion = Congestion(free=2, deadline_s=0.5)
    with contextlib.ExitStack() as stack:
        for _ in range(39):
            stack.enter_context(congestion.request())
        with congestion.request() as visit:
            visit.refused = True
        assert not congestion.admits(1e9)  # 39 are in flight, fewer may be
    for _ in range(100):
        with congestion.request():
            pass
    with contextlib.ExitStack() as stack:
        for _ in range(39):
            stack.enter_context(congestion.request())
        assert congestion.admits(1e9)


def test_a_loop_that_stays_late_lets_less_in_and_one_that_paused_does_not() -> None:
    async def run(pauses: int) -> tuple[float, bool]:
        congestion = Congestion(free=1, deadline_s=0.5)
        congestion.start()
        await asyncio.sleep(TICK_S)
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(congestion.request())
            for _ in range(pauses):
                time.sleep(10 * TICK_S)  # noqa: ASYNC251 - what must not happen to a loop
                for _ in range(3):
                    await asyncio.sleep(0)
            found = congestion.wait_s, congestion.admits(1e9)
            await congestion.close()
        return found

    late_s, admitted = asyncio.run(run(2 * STANDING))
    assert late_s > 0.01
    assert not admitted
    assert asyncio.run(run(1)) == (pytest.approx(0, abs=0.01), True)
