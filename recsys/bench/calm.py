"""What readiness for a crowd costs while there is none: the same questions, one at a time, of two services in turn.

One has the ladder and the policy that is measured, the other plain top-k and no ladder. Which of them is asked first
changes from question to question, so that a disturbance of the machine, and what the first answer warms, fall on both.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from recsys.bench.burst import Service, switch
from recsys.bench.open_loop import Connections, connections
from recsys.collector import not_collecting
from recsys.errors import UnavailableError

WARM = 0.1  # share of the questions asked before anything is counted
DEADLINE_MS = 10_000.0


class _Item(msgspec.Struct):
    item_id: str


class _Degraded(msgspec.Struct):
    step: str


class _Answer(msgspec.Struct):
    items: list[_Item]
    degraded: _Degraded


class _Timed(NamedTuple):
    answer: _Answer
    seconds: float


async def measure_calm(
    service: Service, policy: str, plain: Service, questions: Sequence[bytes]
) -> dict[str, float | str]:
    """One row: the share of answers with the same items in the same order, and both services' times.

    Raises:
        UnavailableError: a question was not answered.
    """
    await switch(service, policy)
    await switch(plain, "topk")
    ours: list[_Timed] = []
    theirs: list[_Timed] = []
    with not_collecting():
        async with connections(service.base, 1) as to_service, connections(plain.base, 1) as to_plain:
            for turn, body in enumerate((*questions[: int(WARM * len(questions))], *questions)):
                sides = [(to_service, ours), (to_plain, theirs)]
                for pool, answers in sides if turn % 2 else reversed(sides):
                    answers.append(await _ask(pool, body))
    counted = slice(len(ours) - len(questions), None)
    return calm_row(policy, ours[counted], theirs[counted])


async def _ask(pool: Connections, body: bytes) -> _Timed:
    began = time.perf_counter()
    status, answer = await pool.post("/v1/recommendations", body, DEADLINE_MS)
    seconds = time.perf_counter() - began
    if status != 200:
        raise UnavailableError(f"a question in calm was answered with {status}: {answer[:200]!r}")
    return _Timed(msgspec.json.decode(answer, type=_Answer), seconds)


def calm_row(policy: str, ours: Sequence[_Timed], theirs: Sequence[_Timed]) -> dict[str, float | str]:
    """The figures: `p50_ratio` is the ratio of the medians, `p50_of_ratios` the median over single questions."""
    same = [
        [i.item_id for i in a.answer.items] == [i.item_id for i in b.answer.items]
        for a, b in zip(ours, theirs, strict=True)
    ]
    ours_s, theirs_s = (np.array([one.seconds for one in side]) for side in (ours, theirs))
    return {
        "policy": policy,
        "questions": len(same),
        "same_answers": float(np.mean(same)),
        "calm_share": float(np.mean([one.answer.degraded.step == "calm" for one in ours])),
        "p50_ms": float(np.median(ours_s)) * 1e3,
        "plain_p50_ms": float(np.median(theirs_s)) * 1e3,
        "p50_ratio": float(np.median(ours_s) / np.median(theirs_s)),
        "p50_of_ratios": float(np.median(ours_s / theirs_s)),
        "p99_ms": float(np.percentile(ours_s, 99)) * 1e3,
        "plain_p99_ms": float(np.percentile(theirs_s, 99)) * 1e3,
    }
