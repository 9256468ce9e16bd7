"""How many slots an expert gets, and who keeps them when more ask."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor


def uniform_capacity(tokens: int, k: int, experts: int, factor: float) -> int:
    """Slots per expert: the factor times the mean load, rounded up; never more than one slot per token is of use."""
    return min(tokens, ceil(factor * tokens * k / experts - 1e-9))


def fair_load(capacity_E: Tensor, slots: int) -> Tensor:
    """Load of each expert when `slots` slots are spread in proportion to capacity, float32."""
    return slots * capacity_E / capacity_E.sum().clamp_min(1)


def keep_best(expert_ids_TK: Tensor, value_TK: Tensor, capacity_E: Tensor) -> Tensor:
    """True for the `capacity_E[e]` slots of expert e with the largest value; equal values: the earlier token.

    Unused slots: False.
    """
    ids_N, value_N = expert_ids_TK.reshape(-1), value_TK.reshape(-1)
    by_value_N = value_N.argsort(descending=True, stable=True)
    order_N = by_value_N[ids_N[by_value_N].argsort(stable=True)]  # by expert, and inside it by falling value
    sorted_N = ids_N[order_N]
    load_B = torch.bincount(sorted_N + 1, minlength=capacity_E.shape[0] + 1)  # bucket 0: unused
    start_B = load_B.cumsum(0) - load_B
    place_N = torch.arange(ids_N.numel(), device=ids_N.device) - start_B[sorted_N + 1]
    limit_B = torch.cat((capacity_E.new_zeros(1), capacity_E))
    kept_N = torch.empty_like(ids_N, dtype=torch.bool)
    kept_N[order_N] = place_N < limit_B[sorted_N + 1]
    return kept_N.view(expert_ids_TK.shape)
