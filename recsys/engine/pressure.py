"""How pressed the engine is, and which step of the ladder that means. Pure: time is an argument.

    calm       the capacity factor of the settings: room for almost every first choice
    redirect   the smallest full capacity factor: balanced, static, the fastest full-quality step
    economise  fewer candidates, and higher up fewer expert slots than the tokens ask for
    shed       refuse what cannot be answered in time, at once and with a time to come back

One signal, the delay in the queue relative to the delay that is allowed, turns it. Going up is immediate; going down
waits, one rung at a time, for `dwell_s` below the rung's lower threshold, so that the ladder does not flicker.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Step = Literal["calm", "redirect", "economise"]


@dataclass(frozen=True, slots=True)
class Rung:
    """One height of the ladder: its step, the pressure that leads to it, and the one below which it is left."""

    step: Step
    up_at: float
    down_at: float
    fewer_candidates: bool = False
    fewer_slots: bool = False

    @property
    def economises(self) -> bool:
        """Whether answers cost less there than at full effort."""
        return self.step == "economise"


RUNGS = (
    Rung("calm", 0.0, 0.0),
    Rung("redirect", 0.25, 0.10),
    Rung("economise", 0.50, 0.20, fewer_candidates=True),
    Rung("economise", 0.75, 0.30, fewer_candidates=True, fewer_slots=True),
)
CHEAPER_FROM = 1  # from here on a rung is there to save time
HIGHEST_UNBOUNDED = 2  # only a bounded policy knows whom to serve when slots are too few


@dataclass(frozen=True, slots=True)
class Ladder:
    """Present height and since when the pressure has been low. A value: `update` returns the next one."""

    dwell_s: float = 0.5
    height: int = 0
    low_since_s: float | None = None

    def update(self, pressure: float, *, now_s: float) -> Ladder:
        """The ladder after seeing `pressure` at `now_s`."""
        reached = max(height for height, rung in enumerate(RUNGS) if pressure >= rung.up_at)
        if reached > self.height:
            return replace(self, height=reached, low_since_s=None)
        if self.height == 0 or pressure > RUNGS[self.height].down_at:
            return replace(self, low_since_s=None)
        if self.low_since_s is None:
            return replace(self, low_since_s=now_s)
        if now_s - self.low_since_s >= self.dwell_s:
            return replace(self, height=self.height - 1, low_since_s=now_s)
        return self

    def height_for(self, *, bounded: bool) -> int:
        """The present height for a policy; `bounded`: it keeps every expert within its capacity, however small."""
        return self.height if bounded else min(self.height, HIGHEST_UNBOUNDED)

    def rung(self, *, bounded: bool) -> Rung:
        """The rung there."""
        return RUNGS[self.height_for(bounded=bounded)]


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of each step: those of the settings, and how many requests a full micro-batch has now, 0 to size
    experts for whatever is at hand."""

    factor: float
    factor_min: float
    factor_economise: float
    candidates: int
    candidates_economise: int
    batch: int


@dataclass(frozen=True, slots=True)
class Effort:
    """What one micro-batch may cost.

    Attributes:
        capacity_factor: slots per expert relative to the mean load; below 1 some slots stay unserved.
        tokens_min: experts are sized for at least this many tokens: a full micro-batch. A smaller one finds all the
            room it wants, because an expert that can serve the full one in time can serve it too.
        candidates: how many retrieval hands to the ranker.
    """

    step: Step
    capacity_factor: float
    tokens_min: int
    candidates: int


def effort(rung: Rung, limits: Limits) -> Effort:
    """The effort of a rung."""
    candidates = min(limits.candidates, limits.candidates_economise) if rung.fewer_candidates else limits.candidates
    factor = limits.factor if rung.step == "calm" else min(limits.factor, limits.factor_min)
    if rung.fewer_slots:
        factor = limits.factor_economise
    return Effort(rung.step, factor, limits.batch * candidates, candidates)
