"""When requests are due, whatever the answers: an open model.

The next arrival never waits for an answer, so a slow service faces the load it would face in the world. (Schroeder,
Wierman, Harchol-Balter: Open versus closed, NSDI 2006.)
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from math import exp
from random import Random

from loadtest.options import Options
from loadtest.replay import RealEvent, load_events
from loadtest.shapes import Phase, phases_of


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request that is due.

    Attributes:
        number: counted from 0.
        at_s: seconds since the start of the run.
        phase: to which it belongs.
        event: the real event behind it, if real events are replayed.
    """

    number: int
    at_s: float
    phase: Phase
    event: RealEvent | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a load one process makes: number `index` of `count`, from 0."""

    index: int = 0
    count: int = 1


WHOLE = Part()


def arrivals_of(options: Options, part: Part = WHOLE) -> Generator[Arrival]:
    """The arrivals that `options` ask for, or one part of them.

    Parts have sources of chance of their own and together are the whole: Poisson processes add up to one, and so do
    self-exciting ones; real events are dealt out in turn.

    Raises:
        LoadTestError: the file of real events cannot be used.
    """
    rng = Random(f"{options.seed}:arrivals" + (f":{part.index}" if part.index else ""))
    match options.shape:
        case "self_exciting":
            return self_exciting(next(phases_of(options)), options.excitation, options.excitation_s, rng, part)
        case "replay":
            return replayed(load_events(options), next(phases_of(options)), part)
        case _:
            return poisson(phases_of(options), rng, part)


def poisson(phases: Iterable[Phase], rng: Random, part: Part = WHOLE) -> Generator[Arrival]:
    """Arrivals of a Poisson process with the piecewise constant rate of `phases`.

    The gaps of a unit-rate process are stretched by the rate in force (time change), which is exact at the steps.
    """
    number, start_s = 0, 0.0
    gap = rng.expovariate(1.0)
    for phase in phases:
        at_s, end_s, rate = start_s, start_s + phase.seconds, phase.rate_per_s / part.count
        while gap < (end_s - at_s) * rate:
            at_s += gap / rate
            yield Arrival(number, at_s, phase)
            number += 1
            gap = rng.expovariate(1.0)
        gap -= (end_s - at_s) * rate
        start_s = end_s


def self_exciting(
    phase: Phase, excitation: float, memory_s: float, rng: Random, part: Part = WHOLE
) -> Generator[Arrival]:
    """Arrivals of a Hawkes process with an exponential kernel, by thinning.

    Each arrival raises the rate by `excitation / memory_s`, which fades with time constant `memory_s`; so it brings
    `excitation` others on average, and the rate of what comes by itself is `1 - excitation` of the mean. (Hawkes:
    Spectra of some self-exciting and mutually exciting point processes, Biometrika 1971; Ogata: On Lewis' simulation
    method for point processes, IEEE Trans. Inf. Theory 1981.)
    """
    base = phase.rate_per_s * (1 - excitation) / part.count
    number, at_s, excited = 0, 0.0, base * excitation / (1 - excitation)  # begins at its mean
    while True:
        bound = base + excited
        gap = rng.expovariate(bound)
        at_s += gap
        if at_s >= phase.seconds:
            return
        excited *= exp(-gap / memory_s)
        if rng.random() * bound < base + excited:
            yield Arrival(number, at_s, phase)
            number += 1
            excited += excitation / memory_s


def replayed(events: list[RealEvent], phase: Phase, part: Part = WHOLE) -> Generator[Arrival]:
    """Every event as an arrival, at its own time compressed or stretched into the length of the phase."""
    first, last = events[0].ts, events[-1].ts
    scale = phase.seconds / (last - first) if last > first else 0.0
    for number, event in enumerate(events):
        if number % part.count == part.index:
            yield Arrival(number, (event.ts - first) * scale, phase, event)
