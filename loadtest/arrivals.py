"""When requests are due: a Poisson process whose rate follows the phases and nothing else.

An open model: the next arrival never waits for an answer, so a slow service faces the load it would face in
the world. (Schroeder, Wierman, Harchol-Balter: Open versus closed, NSDI 2006.)
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from random import Random

from loadtest.shapes.phase import Phase


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request that is due.

    Attributes:
        number: counted from 0.
        at_s: seconds since the start of the run.
        phase: to which it belongs.
    """

    number: int
    at_s: float
    phase: Phase


def poisson(phases: Iterable[Phase], rng: Random) -> Generator[Arrival]:
    """Arrivals of a Poisson process with the piecewise constant rate of `phases`.

    The gaps of a unit-rate process are stretched by the rate in force (time change), which is exact at the steps.
    """
    number, start_s = 0, 0.0
    gap = rng.expovariate(1.0)
    for phase in phases:
        at_s, end_s = start_s, start_s + phase.seconds
        while gap < (end_s - at_s) * phase.rate_per_s:
            at_s += gap / phase.rate_per_s
            yield Arrival(number, at_s, phase)
            number += 1
            gap = rng.expovariate(1.0)
        gap -= (end_s - at_s) * phase.rate_per_s
        start_s = end_s
