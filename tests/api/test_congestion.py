"""A request without a chance is refused before it is read; an estimate never shuts the door for ever."""

from __future__ import annotations

import asyncio
import contextlib
import time

from recsys.api.congestion import TICK_S, Congestion


def test_everything_is_let_in_before_anything_is_known() -> None:
    congestion = Congestion(free=1)
    with congestion.request(), congestion.request():
        assert congestion.admits(0.001)


def test_what_waits_is_weighed_by_what_a_request_costs() -> None:
    congestion = Congestion(free=2)
    for _ in range(200):
        with congestion.request():
            time.sleep(0.001)  # the work itself
    cost_s = congestion.wait_s
    assert cost_s >= 0.0009
    with congestion.request(), congestion.request(), congestion.request():
        assert not congestion.admits(cost_s)
        assert congestion.admits(10 * cost_s)
    assert congestion.admits(0)  # nothing is in flight: it is tried


def test_refusals_of_an_engine_bound_what_is_in_flight_and_answers_widen_it() -> None:
    congestion = Congestion(free=2)
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


def test_a_late_loop_is_noticed_and_forgotten() -> None:
    async def run() -> tuple[float, float]:
        congestion = Congestion(free=0)
        congestion.start()
        await asyncio.sleep(2 * TICK_S)
        time.sleep(0.2)  # noqa: ASYNC251 - what must not happen to a loop
        await asyncio.sleep(0)
        await asyncio.sleep(TICK_S)
        late_s = congestion.wait_s
        for _ in range(500):
            await asyncio.sleep(TICK_S)
            if congestion.wait_s < late_s / 2:
                break
        after_s = congestion.wait_s
        await congestion.close()
        return late_s, after_s

    late_s, after_s = asyncio.run(run())
    assert late_s > 0.05
    assert after_s < late_s / 2
