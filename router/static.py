"""Routing of a padded batch on the device: every shape is known beforehand and no value is read by the host.

That is what a CUDA graph can hold. Padding stays in the batch, asks for nothing and gets no slot, so that the real
tokens are routed as they are without it. What differs from batch to batch (capacities, prices, the phase) is read from
memory that stays where it is. The policies that can do without the host are `topk` and, by the kernels' solver and
assignment, `price`; the others count, sort out or loop on the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops import choose, choose_balanced, normalised_gates, rank_slots
from kernels.plan import triton_installed
from router.shapes import OwnThreshold, RoutingPlan

MOST_EXPERTS = 64  # of `price`: the assignment names them by the bits of one integer


def serves(policy: str, experts: int, device: torch.device) -> bool:
    """Whether a policy has a form with static shapes here. On a CPU that is there for tests alone."""
    if device.type == "cuda" and not triton_installed:
        return False
    return policy == "topk" or (policy == "price" and device.type == "cuda" and experts <= MOST_EXPERTS)


class StaticRouter:
    """One batch under one policy. Stands where a `Router` does.

    Args:
        policy: one that `serves`.
        capacity_E: slots per expert for this batch, int64.
        real_T: which tokens are no padding.
        phase: an integer that moves from batch to batch, 0-d int64.
        prices_LE: where each MoE layer's prices start, float32; overwritten by those of this batch.
    """

    masks_padding = True

    def __init__(self, policy: str, *, capacity_E: Tensor, real_T: Tensor, phase: Tensor, prices_LE: Tensor) -> None:
        self._policy = policy
        self._capacity_E, self._phase, self._prices_LE = capacity_E, phase, prices_LE
        self._padding_T1 = real_T.logical_not()[:, None]
        self._number_T, self._real = real_T.cumsum(0) - 1, real_T.sum()

    def static_capacity(self, tokens: int, k: int) -> int | None:
        """Dropless: the device's kernels lay out as many rows as there are slots."""
        return None

    def route(
        self, layer: int, scores_TE: Tensor, k: int, bias_E: Tensor, own: OwnThreshold | None = None
    ) -> RoutingPlan:
        """As `Router.route`. Padding has expert -1 in every slot, and rank -1.

        Raises:
            ValueError: experts that decide by themselves.
        """
        if own is not None:
            raise ValueError("experts that decide by themselves have no form with static shapes")
        choice_TE = scores_TE + (bias_E - bias_E.min())
        wishes_TK = choose(choice_TE, k).masked_fill(self._padding_T1, -1)
        if self._policy == "topk":
            ids_TK = choose(choice_TE, k, allowed_E=self._capacity_E > 0).masked_fill(self._padding_T1, -1)
            prices_E, gap = torch.zeros_like(bias_E), scores_TE.new_full((), torch.nan)
        else:
            ids_TK, prices_E, gap = self._balanced(layer, scores_TE, k, bias_E)
        return _plan(scores_TE, choice_TE, wishes_TK, ids_TK, prices_E, gap, self._capacity_E)

    def _balanced(self, layer: int, scores_TE: Tensor, k: int, bias_E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The solver sees the real tokens first and is told how many they are."""
        tokens = scores_TE.shape[0]
        place_T = self._number_T.masked_fill(self._padding_T1[:, 0], tokens)
        numbers_T = torch.arange(tokens, device=place_T.device)
        order_T = place_T.new_zeros(tokens + 1).scatter(0, place_T, numbers_T)[:tokens]
        ids_TK, prices_E, gap = choose_balanced(
            scores_TE[order_T], self._capacity_E, k, self._prices_LE[layer], bias_E, self._phase, self._real
        )
        self._prices_LE[layer].copy_(prices_E)
        ids_TK = ids_TK[place_T.clamp_max(tokens - 1)]
        return ids_TK.masked_fill(self._padding_T1, -1), prices_E, gap


def _plan(
    scores_TE: Tensor,
    choice_TE: Tensor,
    wishes_TK: Tensor,
    ids_TK: Tensor,
    prices_E: Tensor,
    gap: Tensor,
    capacity_E: Tensor,
) -> RoutingPlan:
    experts = scores_TE.shape[1]
    ids_TK, redirected_TK = beside_wishes(ids_TK, wishes_TK)
    rank_TK, load_E = rank_slots(ids_TK, experts)
    kept, wished = (
        (choice_TE.gather(1, of_TK.clamp_min(0)) * (of_TK >= 0)).sum(dtype=torch.float64)
        for of_TK in (ids_TK, wishes_TK)
    )
    return RoutingPlan(
        wishes_TK=wishes_TK,
        expert_ids_TK=ids_TK,
        gates_TK=normalised_gates(scores_TE, ids_TK),
        rank_TK=rank_TK,
        demand_E=rank_slots(wishes_TK, experts)[1],
        load_E=load_E,
        prices_E=prices_E,
        redirected_TK=redirected_TK,
        score_kept=(kept / wished).masked_fill(wished <= 0, 1.0).to(choice_TE.dtype),
        certified_gap=gap,
        capacity_E=capacity_E,
    )


def beside_wishes(ids_TK: Tensor, wishes_TK: Tensor) -> tuple[Tensor, Tensor]:
    """What `router.plan` does when it orders slots, by comparisons alone: the n-th new expert of a token goes to the
    n-th wish that was not granted.

    Returns the ordered ids, and True where a used slot is a replacement.
    """
    same_TKK = wishes_TK[:, :, None] == ids_TK[:, None, :]
    denied_TK, new_TK = same_TKK.any(dim=2).logical_not(), same_TKK.any(dim=1).logical_not()
    meets_TKK = denied_TK.cumsum(1)[:, :, None] == new_TK.cumsum(1)[:, None, :]
    new_TK = (meets_TKK & new_TK[:, None, :]).mul(ids_TK[:, None, :]).sum(dim=2)
    ordered_TK = torch.where(denied_TK, new_TK, wishes_TK)
    return ordered_TK, denied_TK & (ordered_TK >= 0)
