"""Spare slots for hot experts: the slow loop beside the batches, over seconds of demand.

On one device a copy of an expert needs no second set of weights: its spare slot is room for one more block of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.wire import LayerLoad
from router.load import LoadTracker
from router.replicas import ReplicaPlan, replan

HALF_LIFE_S = 5.0


class SpareSlots:
    """Follows demand and decides which experts have copies.

    Args:
        experts: how many.
        spare: copies to give away; 0 leaves one slot per expert for good.
        now_s: time on any clock that does not run backwards.
    """

    def __init__(self, experts: int, spare: int, *, now_s: float) -> None:
        self._spare = spare
        self._demand = LoadTracker(torch.zeros(experts), half_life_s=HALF_LIFE_S, started_s=now_s)
        self._plan = ReplicaPlan(torch.ones(experts, dtype=torch.int64), now_s)
        if spare:  # dealt out by the first demand that is seen
            self._plan = ReplicaPlan.even(experts, experts + spare, now_s=float("-inf"))

    @property
    def replicas_E(self) -> Tensor:
        """Copies of each expert, int64, at least one each."""
        return self._plan.replicas_E

    def observe(self, layers: list[LayerLoad], *, now_s: float) -> bool:
        """Demand since the last call, over all layers; True if copies moved."""
        if not self._spare or not layers:
            return False
        demand_E = torch.tensor([layer.demand for layer in layers], dtype=torch.float64).sum(dim=0)
        nothing_E = torch.zeros_like(demand_E)
        self._demand.observe(demand_E, nothing_E, nothing_E, now_s=now_s)
        before, self._plan = self._plan, replan(self._plan, self._demand.at(now_s).demand_per_s_E, now_s=now_s)
        return self._plan is not before
