"""How well each expert does, so that slow and dead ones get less: what people say, times what is measured.

On one device the experts share the arithmetic of a step, so each slot of it takes the same time and there is nothing to
measure. Two things are emulated, for experiments, and the step really waits for them. A lane time gives each expert a
device of its own, as where a model is spread over machines: all lanes work side by side, each takes that long for each
of its slots, and a layer lasts as long as its fullest lane. An injection makes one lane slower than the others, or
dead. From there on it is no play: the times go to a `LoadTracker`, the rates through `capacity_from_load`, and the
router gives a slow expert what it can finish in the time of the others. Lanes that are all alike are all well.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from router.load import LoadTracker, capacity_from_load
from router.shapes import RoutingPlan

HALF_LIFE_S = 0.1  # of a measured time: some steps
LANE_TIMEOUT_S = 0.05  # a lane that has not answered by then is dead, and the batch runs again without it
LATE_MAX_S = 0.5  # no injection holds up a layer for longer; what a lane takes of itself is never cut
PROBE_AFTER_S = 1.0  # a dead lane is tried again after this time ...
PROBE_SHARE = 0.02  # ... with so much of its capacity
WELL = 0.9  # from this share on, a lane counts as well: noise must move nobody
RESOLUTION = 1_000  # slots that stand for a full capacity
DEAD = float("inf")


class Lanes:
    """One lane per expert. `finish` from the thread that computes, the rest from any.

    Args:
        experts: how many.

    Attributes:
        lane_s: seconds that each lane takes for each of its slots; 0: all experts are on one device.
    """

    def __init__(self, experts: int) -> None:
        self.experts = experts
        self.lane_s = 0.0
        self._told_E = torch.ones(experts, dtype=torch.float64)
        self._delay_s_E = torch.zeros(experts, dtype=torch.float64)
        self._measured_E = torch.ones(experts, dtype=torch.float64)
        self._tried_s: dict[int, float] = {}  # dead lane -> when it failed
        self._rates: LoadTracker | None = None  # None: all lanes are well, nothing to measure

    def follow(self, health: Mapping[int, float], delays_s: Mapping[int, float], lane_s: float = 0.0) -> None:
        """What people say: shares of capacity that are left, seconds per slot that are injected (`DEAD`), and those
        that all lanes take.

        Raises:
            ValueError: there is no such expert; everything stays as it was.
        """
        for name, values in (("health", health), ("inject", delays_s)):
            if wrong := [expert for expert in values if expert >= self.experts]:
                raise ValueError(f"{name}: no expert {wrong[0]}, there are {self.experts}")
        self._told_E, self._delay_s_E = self._filled(1.0, health), self._filled(0.0, delays_s)
        self.lane_s = lane_s

    def _filled(self, usual: float, values: Mapping[int, float]) -> Tensor:
        filled_E = torch.full((self.experts,), usual, dtype=torch.float64)
        for expert, value in values.items():
            filled_E[expert] = value
        return filled_E

    def health_E(self, now_s: float) -> Tensor:
        """Share of its capacity that each expert may be given now, float64 in [0, 1]."""
        if self._rates is None:
            return self._told_E
        shares_E = self._measured_E.clone()
        for expert, failed_s in list(self._tried_s.items()):  # the thread that computes changes it
            shares_E[expert] = 0.0 if now_s - failed_s < PROBE_AFTER_S else PROBE_SHARE
        return self._told_E * shares_E

    @property
    def ill(self) -> bool:
        """Whether any is slow or dead, or was a moment ago."""
        return self._rates is not None or bool(self._delay_s_E.any())

    @property
    def sleep(self) -> bool:
        """Whether `finish` may sleep, longer than steps are expected to take."""
        return self.lane_s > 0 or self.ill

    def finish(self, plans: Sequence[RoutingPlan], seconds: float) -> bool:
        """Wait for the lanes of a step that took `seconds`, and learn. False: one is dead, the step must run again."""
        lane_s, delay_s_E = self.lane_s, self._delay_s_E
        ill = self.ill
        if not plans or not (ill or lane_s):
            return True
        load_LE = _load(plans)
        late_s_LE = _late(load_LE, delay_s_E)
        time.sleep(float((load_LE * lane_s + late_s_LE).amax(dim=1).sum()))
        if not ill:
            return True
        load_E, now_s = load_LE.sum(dim=0), time.monotonic()
        dead_E = (delay_s_E == DEAD) & (load_E > 0)
        # times are counted in what a slot takes where all is well: steps differ, lanes do not
        slot_s = lane_s or seconds / max(float(load_E.sum()), 1.0)
        if self._rates is None:
            self._rates = LoadTracker(torch.ones(self.experts), half_life_s=HALF_LIFE_S, started_s=now_s)
        served_E = load_E.where(~dead_E, torch.zeros_like(load_E))
        self._rates.observe(load_E, served_E, load_E + late_s_LE.sum(dim=0) / max(slot_s, 1e-9), now_s=now_s)
        self._learn(served_E, dead_E, now_s)
        return not bool(dead_E.any())

    def own_s(self, plans: Sequence[RoutingPlan]) -> float:
        """Seconds that the lanes of a step would take of themselves, without injections."""
        return float(_load(plans).amax(dim=1).sum()) * self.lane_s if plans else 0.0

    def _learn(self, served_E: Tensor, dead_E: Tensor, now_s: float) -> None:
        assert self._rates is not None
        for expert in range(self.experts):
            if bool(dead_E[expert]):
                self._tried_s[expert] = now_s
            elif bool(served_E[expert] > 0):
                self._tried_s.pop(expert, None)
        rate_E = self._rates.at(now_s).service_rate_E
        slots_E = capacity_from_load(rate_E, torch.zeros_like(rate_E), horizon_s=RESOLUTION, most=RESOLUTION)
        share_E = slots_E.double() / RESOLUTION
        self._measured_E = share_E.where(share_E < WELL, torch.ones_like(share_E))
        if not (self._tried_s or bool(self._delay_s_E.any()) or bool((self._measured_E < 1).any())):
            self._rates = None


def _load(plans: Sequence[RoutingPlan]) -> Tensor:
    return torch.stack([plan.load_E.double().cpu() for plan in plans])


def _late(load_LE: Tensor, delay_s_E: Tensor) -> Tensor:
    late_s_LE = load_LE * delay_s_E  # 0 * inf: nan
    return late_s_LE.nan_to_num(nan=0.0, posinf=LANE_TIMEOUT_S).clamp_max(LATE_MAX_S)
