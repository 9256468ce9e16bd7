"""Rivals of price routing that no service should run, made as strong as they can be: hard capacities, nothing dropped.

Each is some way to choose, then the same repair: experts over capacity evict, evicted slots bid for room, what is
left is moved in by swaps. Where a rival has a knob, `at_its_best` turns it until it keeps most score on the very
stream it is judged on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.ops import choose, split_rows
from router.capacity import fair_load, keep_best
from router.plan import choice_scores, make_plan, next_state
from router.shapes import RouterState, RoutingPlan
from router.spill import phase_ring, rebid, swap_in


class Chooser(Protocol):
    """How a rival finds prices.

    Attributes:
        remembers: whether a batch's prices depend on the batches before.
    """

    @property
    def remembers(self) -> bool: ...

    def prices(self, choice_TE: Tensor, capacity_E: Tensor, k: int, before_E: Tensor) -> tuple[Tensor, Tensor]:
        """Prices to choose by, and those handed to the next batch as its `before_E`."""
        ...


@dataclass(slots=True)
class Repaired:
    """top-k of score - price, evict the lowest margins above capacity, let the evicted bid again."""

    name: str
    chooser: Chooser
    bounded: bool = True
    complete: bool = True

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        """As `Policy.route`."""
        choice_TE = choice_scores(scores_TE, state.bias_E)
        prices_E, next_E = self.chooser.prices(choice_TE, capacity_E, k, state.prices_E)
        value_TE = choice_TE - prices_E
        ids_TK = choose(choice_TE, k, prices_E=prices_E)
        margin_TK = value_TE.gather(1, ids_TK) - split_rows(value_TE, k)[1][:, None]
        ids_TK = repair(ids_TK, margin_TK, choice_TE, capacity_E, state.step)
        plan = make_plan(scores_TE, choice_TE, ids_TK, capacity_E, prices_E=prices_E)
        return plan, RouterState(next_E, state.bias_E, state.step + 1)

    def pass_by(self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState) -> RouterState:
        """The state after a batch whose plan nobody looks at: `route` without the repair, which nothing learns from."""
        next_E = state.prices_E
        if self.chooser.remembers:
            _, next_E = self.chooser.prices(choice_scores(scores_TE, state.bias_E), capacity_E, k, next_E)
        return RouterState(next_E, state.bias_E, state.step + 1)


def repair(ids_TK: Tensor, priority_TK: Tensor, choice_TE: Tensor, capacity_E: Tensor, seed: int) -> Tensor:
    """Fit a choice into the capacities: the highest priorities stay, the rest bid for room until none is left."""
    kept_TK = keep_best(ids_TK, priority_TK, capacity_E)
    held_ET = torch.zeros_like(choice_TE.T, dtype=torch.bool, memory_format=torch.contiguous_format)
    rows_T1 = torch.arange(len(ids_TK))[:, None].expand_as(ids_TK)
    held_ET[ids_TK[kept_TK], rows_T1[kept_TK]] = True
    room_E, short_T = capacity_E - held_ET.sum(dim=1), ids_TK.shape[1] - held_ET.sum(dim=0)
    value_ET = choice_TE.T.contiguous()
    rebid(short_T, held_ET, room_E, value_ET, rounds=4 * len(capacity_E))
    phase_ring(short_T, held_ET, room_E, seed)
    if bool(short_T.any()) and bool(room_E.any()):
        swap_in(short_T, held_ET, room_E, value_ET)
    return _listed(held_ET, ids_TK.shape[1])


def _listed(held_ET: Tensor, k: int) -> Tensor:
    """Who holds what as ids, -1 where a token holds fewer than k."""
    marks_TE = held_ET.T.int()
    first_TK = marks_TE.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.where(marks_TE.gather(1, first_TK) > 0, first_TK, -1)


@dataclass(frozen=True, slots=True)
class NoPrices:
    """Evict and bid again, and nothing else."""

    remembers: bool = False

    def prices(self, choice_TE: Tensor, capacity_E: Tensor, k: int, before_E: Tensor) -> tuple[Tensor, Tensor]:
        """None."""
        return torch.zeros_like(before_E), before_E


@dataclass(frozen=True, slots=True)
class SinkhornPrices:
    """Twenty scalings; with `room` columns are scaled only down to their capacity, not up to it."""

    temperature: float
    room: bool
    remembers: bool = False

    def prices(self, choice_TE: Tensor, capacity_E: Tensor, k: int, before_E: Tensor) -> tuple[Tensor, Tensor]:
        """From this batch alone."""
        kernel_TE = ((choice_TE - choice_TE.amax(dim=1, keepdim=True)) / self.temperature).exp().clamp_min(1e-30)
        share_E = capacity_E.float() if self.room else fair_load(capacity_E, len(choice_TE) * k)
        scale_E = torch.ones_like(share_E)
        for _ in range(20):
            row_T = k / (kernel_TE @ scale_E)
            scale_E = share_E / (row_T @ kernel_TE)
            if self.room:
                scale_E = scale_E.clamp_max(1.0)
        prices_E = -self.temperature * scale_E.clamp(1e-30, 1e30).log()
        return prices_E - prices_E.min(), before_E


@dataclass(frozen=True, slots=True)
class LossFreePrices:
    """Bias by the sign of the last batch's overload, with a gain."""

    gain: float
    remembers: bool = True

    def prices(self, choice_TE: Tensor, capacity_E: Tensor, k: int, before_E: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the batches before."""
        ids_TK = choose(choice_TE, k, prices_E=before_E)
        load_E = torch.bincount(ids_TK.flatten(), minlength=len(capacity_E))
        next_E = before_E + self.gain * torch.sign(load_E - fair_load(capacity_E, ids_TK.numel()))
        return before_E, next_E - next_E.min()


@dataclass(slots=True)
class InOrder:
    """Each token in turn takes its k best experts that have room; what fits nowhere else is moved in by swaps.

    The turn is that of arrival, or falls with the score of the best expert (`confident_first`). Taking turns equals
    deferred acceptance in which every expert prefers the earlier token, which works on all tokens at once.
    """

    name: str
    confident_first: bool
    bounded: bool = True
    complete: bool = True

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        """As `Policy.route`."""
        choice_TE = choice_scores(scores_TE, state.bias_E)
        turn_T = torch.arange(len(choice_TE), dtype=torch.float64)
        if self.confident_first:
            turn_T[choice_TE.amax(dim=1).argsort(descending=True, stable=True)] = turn_T.clone()
        open_TE = choice_TE.clone()
        while True:
            best_TK, ids_TK = open_TE.topk(k, dim=1)
            ids_TK = torch.where(best_TK > -torch.inf, ids_TK, -1)
            kept_TK = keep_best(ids_TK, -turn_T[:, None].expand_as(best_TK), capacity_E)
            refused_TK = ~kept_TK & (ids_TK >= 0)
            if not bool(refused_TK.any()):
                break
            token_N, slot_N = refused_TK.nonzero(as_tuple=True)
            open_TE[token_N, ids_TK[token_N, slot_N]] = -torch.inf
        ids_TK = repair(ids_TK, -turn_T[:, None].expand_as(best_TK), choice_TE, capacity_E, state.step)
        plan = make_plan(scores_TE, choice_TE, ids_TK, capacity_E)
        return plan, next_state(state, plan)


EVICT_AND_REBID = Repaired("evict_rebid", NoPrices())
IN_ARRIVAL_ORDER = InOrder("arrival_reroute", confident_first=False)
IN_CONFIDENCE_ORDER = InOrder("confidence_reroute", confident_first=True)
SINKHORN_KNOBS = [
    Repaired("sinkhorn_best", SinkhornPrices(temperature, room))
    for temperature in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    for room in (False, True)
]
LOSS_FREE_KNOBS = [
    Repaired("loss_free_best", LossFreePrices(gain)) for gain in (3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)
]


def at_its_best(
    knobs: Sequence[Repaired], batches: Sequence[Tensor], judged: Sequence[int], capacity_E: Tensor, k: int
) -> Repaired:
    """The setting that keeps most score over the judged batches of a stream, which it sees in order."""

    def kept(rival: Repaired) -> float:
        state, total = RouterState.initial(len(capacity_E)), 0.0
        for number, scores_TE in enumerate(batches):
            if number in judged:
                plan, state = rival.route(scores_TE, capacity_E, k, state)
                total += float(plan.score_kept)
            else:
                state = rival.pass_by(scores_TE, capacity_E, k, state)
        return total

    return max(knobs, key=kept)
