"""A model of devices that serve experts: queues, rates, faults and deadlines, with time as an argument.

A lane is a device. It holds expert slots, works through batches first come first served at a fixed rate of token
slots per second, and refuses what it could not finish by the deadline. A batch is done when its slowest lane is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.ops import rank_slots
from router.shapes import RoutingPlan


@dataclass(frozen=True, slots=True)
class Fault:
    """One lane works at `speed` times its rate from `from_s` until `to_s`; 0 = dead."""

    lane: int
    speed: float
    from_s: float
    to_s: float = float("inf")


@dataclass(frozen=True, slots=True)
class Placement:
    """Which lanes hold which experts.

    Attributes:
        copies_EL: copies of expert e on lane l, int64; every expert has one somewhere.
    """

    copies_EL: Tensor

    @staticmethod
    def of(replicas_E: Tensor, lanes: int, demand_E: Tensor | None = None) -> Placement:
        """Spread copies over lanes: equally many on each (up to one), the hottest first to the coolest lane.

        Source: the packing step of EPLB (deepseek-ai/EPLB).

        Args:
            replicas_E: copies of each expert.
            lanes: lanes to place them on; where there are more lanes than copies, copies are added to fill them.
            demand_E: load to even out; default equal for all experts.
        """
        experts = replicas_E.numel()
        replicas_E = replicas_E.clone()
        demand_E = torch.ones(experts, dtype=torch.float64) if demand_E is None else demand_E.double() + 1e-9
        while int(replicas_E.sum()) < lanes:  # an idle lane serves nobody
            replicas_E[int((demand_E / replicas_E).argmax())] += 1
        share_E = demand_E / replicas_E
        places = -(-int(replicas_E.sum()) // lanes)
        copies_EL = torch.zeros(experts, lanes, dtype=torch.int64)
        heat_L, used_L = torch.zeros(lanes, dtype=torch.float64), torch.zeros(lanes, dtype=torch.int64)
        for expert in share_E.argsort(descending=True, stable=True).tolist():
            for _ in range(int(replicas_E[expert])):
                # Copies of one expert stand on different lanes where that is possible.
                order_L = heat_L + (copies_EL[expert] > 0) * 1e12
                lane = int(order_L.masked_fill(used_L >= places, torch.inf).argmin())
                copies_EL[expert, lane] += 1
                heat_L[lane] += share_E[expert]
                used_L[lane] += 1
        return Placement(copies_EL)

    def capacity(self, room_L: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Slots of each expert when lane l has room for `room_L[l]`, int64 (E,), and the share of each lane in them."""
        held_L = self.copies_EL.sum(dim=0).clamp_min(1)
        room_EL = self.copies_EL * (room_L.double() / held_L)
        capacity_E = (room_EL.sum(dim=1) - 1e-9).ceil().clamp(0, tokens).to(torch.int64)
        # With no room anywhere the copies share evenly what comes all the same.
        weight_EL = torch.where(room_EL.sum(dim=1, keepdim=True) > 0, room_EL, self.copies_EL.double())
        return capacity_E, weight_EL / weight_EL.sum(dim=1, keepdim=True)


def lane_of_slots(plan: RoutingPlan, share_EL: Tensor) -> Tensor:
    """Lane of each slot of a plan, (T, K), -1 = not used: the rows of an expert are cut in proportion to the shares."""
    used_TK = plan.expert_ids_TK >= 0
    ids_TK = plan.expert_ids_TK.clamp_min(0)
    where_TK = (plan.rank_TK + 0.5) / plan.load_E.clamp_min(1)[ids_TK]
    edges_EL = share_EL.cumsum(dim=1)
    edges_EL[:, -1] = 1.0
    lane_TK = (where_TK[:, :, None] > edges_EL[ids_TK]).sum(dim=2)
    return torch.where(used_TK, lane_TK, -1)


@dataclass(frozen=True, slots=True)
class Step:
    """What the lanes made of one batch.

    Attributes:
        seconds: from arrival until the last slot was done; 0 if nothing was.
        served_TK: which slots were done by the deadline; the others were refused or lost on a dead lane.
        asked_L, served_L: slots per lane.
        busy_s_L: seconds of work per lane; a dead lane "works" in vain until the deadline.
    """

    seconds: float
    served_TK: Tensor
    asked_L: Tensor
    served_L: Tensor
    busy_s_L: Tensor


class Lanes:
    """Queues of L lanes. `serve` must be called in order of time."""

    def __init__(self, lanes: int, *, slots_per_s: float, overhead_s: float, faults: tuple[Fault, ...] = ()) -> None:
        """Raises ValueError: a number outside its bound, or a fault of a lane that is not there."""
        if not 1 <= lanes <= 256:
            raise ValueError(f"lanes must be in 1..256, not {lanes}")
        if not slots_per_s > 0 or not overhead_s >= 0:
            raise ValueError(f"slots_per_s must be > 0 and overhead_s >= 0, not {slots_per_s} and {overhead_s}")
        for fault in faults:
            if not 0 <= fault.lane < lanes or not 0 <= fault.speed < float("inf"):
                raise ValueError(f"a fault needs a lane in 0..{lanes - 1} and a speed >= 0, not {fault}")
        self._slots_per_s, self._overhead_s, self._faults = slots_per_s, overhead_s, faults
        self._free_at_s_L = torch.zeros(lanes, dtype=torch.float64)

    def rate(self, now_s: float) -> Tensor:
        """True slots per second of each lane, float64 (L,)."""
        rate_L = torch.full_like(self._free_at_s_L, self._slots_per_s)
        for fault in self._faults:
            if fault.from_s <= now_s < fault.to_s:
                rate_L[fault.lane] *= fault.speed
        return rate_L

    def backlog(self, now_s: float) -> Tensor:
        """Slots waiting or in work, float64 (L,)."""
        return (self._free_at_s_L - now_s).clamp_min(0) * self.rate(now_s)

    def serve(self, lane_TK: Tensor, *, now_s: float, deadline_s: float) -> Step:
        """Queue one batch that arrives now. A lane takes the slots, first rows first, that it can finish in time."""
        rate_L, lanes = self.rate(now_s), self._free_at_s_L.numel()
        place_TK, asked_L = rank_slots(lane_TK, lanes)
        start_s_L = self._free_at_s_L.clamp_min(now_s) + self._overhead_s
        most_L = ((now_s + deadline_s - start_s_L).clamp_min(0) * rate_L + 1e-9).floor().to(torch.int64)
        served_L = torch.minimum(asked_L, most_L)
        served_TK = (lane_TK >= 0) & (place_TK < served_L[lane_TK.clamp_min(0)])
        work_s_L = torch.where(served_L > 0, self._overhead_s + served_L / rate_L.clamp_min(1e-9), 0.0)
        done_s_L = self._free_at_s_L.clamp_min(now_s) + work_s_L
        busy_L = served_L > 0
        self._free_at_s_L = torch.where(busy_L, done_s_L, self._free_at_s_L)
        seconds = float((done_s_L - now_s)[busy_L].max()) if bool(busy_L.any()) else 0.0
        vain_s_L = torch.where((rate_L == 0) & (asked_L > 0), deadline_s, 0.0)
        return Step(seconds, served_TK, asked_L, served_L, work_s_L + vain_s_L)
