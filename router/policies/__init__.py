"""Routing policies, one per module; `get(name)` finds them."""

from router.policies import drop, price, topk
from router.policies.base import Policy, get, names

__all__ = ["Policy", "drop", "get", "names", "price", "topk"]
