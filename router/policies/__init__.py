"""Routing policies, one per module; `get(name)` finds them."""

from router.policies import (
    drift_plus_penalty,
    drop,
    expanded_drop,
    hash,
    loss_free,
    p2c,
    phase,
    price,
    sinkhorn,
    threshold,
    topk,
)
from router.policies.base import Policy, get, names

__all__ = [
    "Policy",
    "drift_plus_penalty",
    "drop",
    "expanded_drop",
    "get",
    "hash",
    "loss_free",
    "names",
    "p2c",
    "phase",
    "price",
    "sinkhorn",
    "threshold",
    "topk",
]
