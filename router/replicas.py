"""Spare slots for hot experts: the slow half of the answer to a crowd, decided in seconds, not per batch.

When half of the traffic wants two experts, even the best routing must turn most of it away. A copy of a hot expert
in a spare slot doubles what it can take. Moving weights costs time, so a new plan must be worth it (dead band) and
plans do not follow each other closely (dwell).

Source: the replication step of DeepSeek's expert-parallel load balancer (deepseek-ai/EPLB): each further slot goes to
the expert whose copies carry most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DEAD_BAND = 1.3  # act when the hottest slot carries this many times what it would under a new plan
DWELL_S = 5.0


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """Copies of each expert, int64 (E,), at least one each, and since when."""

    replicas_E: Tensor
    since_s: float

    @staticmethod
    def even(experts: int, slots: int, *, now_s: float) -> ReplicaPlan:
        """The plan before any demand is known: spare slots go round from expert 0."""
        return ReplicaPlan(replicate(torch.zeros(experts), slots), now_s)


def replicate(demand_E: Tensor, slots: int) -> Tensor:
    """Copies of each expert so that the largest demand per copy is as small as possible, int64 (E,).

    Every expert has one slot, and each further one goes to the expert with the largest demand per copy (ties: fewest
    copies, then the lowest number). For this objective greedy is optimal.

    Args:
        demand_E: slots wished for, on any scale, >= 0.
        slots: slots in all, at least one per expert.

    Raises:
        ValueError: a demand that is negative or not finite, or too few slots.
    """
    demand = demand_E.detach().to(torch.float64).tolist()
    if not all(0 <= value < float("inf") for value in demand):
        raise ValueError("demand must be finite and >= 0 for every expert")
    if slots < len(demand):
        raise ValueError(f"slots must be >= {len(demand)} (one per expert), not {slots}")
    copies = [1] * len(demand)
    for _ in range(slots - len(demand) if demand else 0):
        hottest = max(range(len(demand)), key=lambda e: (demand[e] / copies[e], -copies[e], -e))
        copies[hottest] += 1
    return torch.tensor(copies, dtype=torch.int64)


def hottest_slot(demand_E: Tensor, replicas_E: Tensor) -> float:
    """Largest demand per copy."""
    return float((demand_E.double() / replicas_E).max()) if demand_E.numel() else 0.0


def replan(
    plan: ReplicaPlan, demand_E: Tensor, *, now_s: float, dead_band: float = DEAD_BAND, dwell_s: float = DWELL_S
) -> ReplicaPlan:
    """The plan to follow from `now_s` on: the same object unless a change is due and pays.

    Args:
        plan: the present one; its number of slots is kept.
        demand_E: recent demand, as `LoadTracker` measures it.
        now_s: time on the clock of `plan.since_s`.
        dead_band: least factor by which the hottest slot must cool down, >= 1.
        dwell_s: least time between changes.

    Raises:
        ValueError: as `replicate`, or a dead band below 1.
    """
    if dead_band < 1:
        raise ValueError(f"dead_band must be >= 1, not {dead_band}")
    if now_s - plan.since_s < dwell_s:
        return plan
    better_E = replicate(demand_E, int(plan.replicas_E.sum()))
    cooler, hotter = hottest_slot(demand_E, better_E), hottest_slot(demand_E, plan.replicas_E)
    return ReplicaPlan(better_E, now_s) if hotter > 0 and hotter >= dead_band * cooler else plan
