"""How uneven a load is, and what a plan changed. Pure functions of loads and plans."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from router.shapes import RoutingPlan


def max_over_mean(load_E: Tensor) -> float:
    """Largest load over the mean: what the slowest of equal experts waits for. 1 = even; 1 where there is no load."""
    mean = float(load_E.double().mean())
    return float(load_E.max()) / mean if mean > 0 else 1.0


def coefficient_of_variation(load_E: Tensor) -> float:
    """Standard deviation over the mean. 0 = even."""
    load_E = load_E.double()
    mean = float(load_E.mean())
    return float(load_E.std(correction=0)) / mean if mean > 0 else 0.0


def normalised_entropy(load_E: Tensor) -> float:
    """Entropy of the shares over that of even shares. 1 = even, 0 = one expert has all; 1 where there is no load."""
    total, experts = float(load_E.sum()), load_E.numel()
    if total == 0 or experts == 1:
        return 1.0
    share_E = load_E.double() / total
    return float(torch.special.entr(share_E).sum()) / log(experts)


def drop_rate(plan: RoutingPlan) -> float:
    """Share of slots that got no expert."""
    slots = plan.expert_ids_TK.numel()
    return float((plan.expert_ids_TK < 0).sum()) / slots if slots else 0.0


def redirect_rate(plan: RoutingPlan) -> float:
    """Share of slots that went to an expert the token did not wish for."""
    slots = plan.redirected_TK.numel()
    return float(plan.redirected_TK.sum()) / slots if slots else 0.0
