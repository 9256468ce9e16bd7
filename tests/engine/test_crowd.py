"""A whole crowd at the engine's door, in simulated time: how late answers are, how many, and how it ends."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from recsys.engine.admission import AdmissionQueue, Ticket
from recsys.engine.pace import Pace
from recsys.wire import RankRequest

BATCH, SIZES = 16, (1, 2, 4, 8, 16)
Steps = tuple[tuple[float, float], ...]  # at each height: n requests cost a + b n seconds
STEP_S: Steps = ((2.3e-3, 0.8e-3), (2.4e-3, 0.8e-3), (2.4e-3, 0.43e-3), (2.5e-3, 0.6e-3))
# Slots of the fullest expert per request, both layers, in a crowd on one category of the demo's world; quiet machine.
FULLEST = {"topk": (157, 157, 82, 82), "price": (88, 59, 32, 19)}
LANE_S = 20e-6


def step_s(height: int, requests: int, steps: Steps = STEP_S) -> float:
    fixed_s, each_s = steps[height]
    return fixed_s + each_s * requests


def with_lanes(policy: str) -> Steps:
    """A device per expert: the arithmetic, and then the fullest lane."""
    return tuple((fixed, each + slots * LANE_S) for (fixed, each), slots in zip(STEP_S, FULLEST[policy], strict=True))


FULL_RATE = BATCH / step_s(0, BATCH)  # 1,060 requests per second


@dataclass
class Day:
    """What became of the requests: (arrived, answered, height), and when others were refused."""

    answered: list[tuple[float, float, int]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def delays(self, since_s: float, until_s: float) -> list[float]:
        return [answered - arrived for arrived, answered, _ in self.answered if since_s <= arrived < until_s]


def simulate(
    rates: list[tuple[float, float]], *, ladder: bool = True, pauses: tuple[float, ...] = (), steps: Steps = STEP_S
) -> Day:
    """Poisson arrivals at each (seconds, requests per second) in turn; the device stands still for 60 ms at each of
    `pauses`."""
    pace = Pace(wait_max_s=0.05, batch_max=BATCH, ladder=ladder)
    for height in range(len(STEP_S)):
        for requests in SIZES:
            pace.learn(height, requests, step_s(height, requests, steps))
    rng, arrivals, at_s, end_s = random.Random(0), list[float](), 0.0, 0.0
    for seconds, rate in rates:
        end_s += seconds
        while (at_s := at_s + rng.expovariate(rate)) < end_s:
            arrivals.append(at_s)
        at_s = end_s
    queue, day, now_s, turn, paused = AdmissionQueue(512), Day(), 0.0, 0, list(pauses)

    def arrive_until(until_s: float) -> None:
        nonlocal turn
        while turn < len(arrivals) and arrivals[turn] <= until_s:
            arrived_s = arrivals[turn]
            ticket = Ticket(b"", RankRequest(id=str(turn), time_left_ms=300, k=1), arrived_s, arrived_s + 0.3)
            if not pace.admits(queue.ahead_of(ticket), 0.3, arrived_s) or queue.offer(ticket):
                day.refused.append(arrived_s)
            turn += 1

    while turn < len(arrivals) or len(queue):
        if not len(queue):
            for tick in range(1, int((arrivals[turn] - now_s) / 0.2) + 1):
                pace.idle(now_s + 0.2 * tick)
            now_s = max(now_s, arrivals[turn])
            arrive_until(now_s)
            continue
        batch, _ = queue.take(pace.batch, now_s=now_s, step_s=pace.step_s)
        waited_s = now_s - min(ticket.arrived_s for ticket in batch)
        pace.begin(len(batch), waited_s=waited_s, behind=len(queue), bounded=True, now_s=now_s)
        seconds = step_s(pace.height, len(batch), steps)
        if paused and now_s >= paused[0]:
            seconds += 0.06
            paused.pop(0)
        now_s += seconds
        arrive_until(now_s)
        pace.end(len(batch), seconds)
        day.answered += [(ticket.arrived_s, now_s, pace.height) for ticket in batch]
    return day


def test_in_a_crowd_nobody_waits_for_more_than_the_step_under_way_and_as_many_are_answered_as_ever() -> None:
    day = simulate([(2.0, 0.3 * FULL_RATE), (10.0, 3 * FULL_RATE), (3.0, 0.3 * FULL_RATE)])
    assert np.percentile(day.delays(2.3, 12.0), 99) <= 2.5 * step_s(2, BATCH)
    assert max(day.delays(2.0, 2.3)) <= 0.06  # until the crowd is known for one
    assert len(day.delays(2.0, 12.0)) / 10 >= 1.5 * FULL_RATE
    calm = [height for arrived, _, height in day.answered if arrived < 2.0]
    assert calm.count(0) == len(calm)
    assert all(2.0 <= at < 12.2 for at in day.refused)
    assert next(arrived for arrived, _, height in day.answered if arrived > 12.0 and height == 0) < 14.0


def test_with_a_device_per_expert_balance_and_the_ladder_answer_more_than_twice_as_many_as_plain_topk() -> None:
    crowd = [(1.0, 60.0), (10.0, 900.0)]
    plain = simulate(crowd, ladder=False, steps=with_lanes("topk")).delays(1.0, 11.0)
    ours = simulate(crowd, steps=with_lanes("price")).delays(1.0, 11.0)
    calm = simulate([(1.0, 60.0), (10.0, len(ours) / 10)], steps=with_lanes("price")).delays(1.0, 11.0)
    assert len(ours) >= 3 * len(plain)
    assert np.percentile(ours, 99) <= 1.2 * np.percentile(calm, 99)


def test_without_the_ladder_the_queue_does_not_stand_either() -> None:
    day = simulate([(1.0, 0.3 * FULL_RATE), (10.0, 3 * FULL_RATE)], ladder=False)
    crowd = day.delays(1.0, 11.0)
    assert np.percentile(crowd, 99) <= 1.1 * 2 * step_s(0, 16)
    assert len(crowd) / 10 >= 0.97 * FULL_RATE


@pytest.mark.parametrize("share", [1.2, 1.5, 3.0])
def test_whatever_the_crowd_more_are_answered_than_at_full_effort(share: float) -> None:
    day = simulate([(1.0, 0.3 * FULL_RATE), (10.0, share * FULL_RATE)])
    assert len(day.delays(1.0, 11.0)) / 10 >= 1.03 * FULL_RATE


def test_after_a_pause_of_the_machine_nobody_is_refused_and_nothing_economised() -> None:
    day = simulate([(10.0, 0.3 * FULL_RATE)], pauses=(2.0, 4.0, 6.0, 8.0))
    assert not day.refused
    assert max(height for _, _, height in day.answered) <= 1
