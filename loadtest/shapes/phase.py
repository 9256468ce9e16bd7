"""A stretch of a run with one offered rate; a shape is a sequence of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

PhaseName = str  # "calm", "crowd", "after", or "step 2" and so on


@dataclass(frozen=True, slots=True)
class Phase:
    """One offered rate for some time.

    Attributes:
        name: under which the answers are counted.
        seconds: length.
        rate_per_s: mean arrivals per second.
        crowd_share: share of the arrivals that belong to the crowd.
        about: what the crowd wants: one category, or what follows from one item.
        injected: what ails one expert: microseconds that each of its slots takes longer, or `dead`.
    """

    name: PhaseName
    seconds: float
    rate_per_s: float
    crowd_share: float = 0.0
    about: Literal["category", "item"] = "category"
    injected: float | Literal["dead"] | None = None


def phase_at(phases: Iterable[Phase], elapsed_s: float) -> Phase | None:
    """The phase that holds `elapsed_s` seconds into the run; None once it is over."""
    end_s = 0.0
    for phase in phases:
        end_s += phase.seconds
        if elapsed_s < end_s:
            return phase
    return None


def seconds_by_name(phases: Iterable[Phase], elapsed_s: float) -> dict[PhaseName, float]:
    """Seconds spent under each name in the first `elapsed_s` seconds, in order of appearance."""
    spent: dict[PhaseName, float] = {}
    left_s = elapsed_s
    for phase in phases:
        if left_s <= 0:
            break
        spent[phase.name] = spent.get(phase.name, 0.0) + min(phase.seconds, left_s)
        left_s -= phase.seconds
    return spent
