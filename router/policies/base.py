"""What a routing policy is, and the registry that finds one by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from router.shapes import RouterState, RoutingPlan


class Policy(Protocol):
    """A pure function of scores, capacities and state. No Redis, HTTP, clock or hidden randomness.

    Attributes:
        name: what it is called in settings, the API and tables.
        bounded: whether `load_E <= capacity_E` holds in every batch. A bounded policy runs on static slots.
        complete: whether every slot is used as long as `sum(capacity_E) >= T*K` leaves room for distinct experts.
    """

    name: str
    bounded: bool
    complete: bool

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        """Choose `k` experts for each token.

        Args:
            scores_TE: gate scores, float32 or float64, finite and >= 0 (softmax or sigmoid).
            capacity_E: slots per expert, int64 >= 0; 0 is a dead expert.
            k: experts per token, 1 <= k <= E.
            state: what the last call returned, or `RouterState.initial(E)`.

        Raises:
            ValueError: naming the argument and its bound.
        """
        ...


_registry: dict[str, Callable[[], Policy]] = {}


def register(factory: Callable[[], Policy]) -> Callable[[], Policy]:
    """Class decorator: make a policy available by its `name`. The class must construct without arguments."""
    name: str = factory.name  # type: ignore[attr-defined]
    if name in _registry:
        raise ValueError(f"a policy named {name!r} is already registered")
    _registry[name] = factory
    return factory


def get(name: str) -> Policy:
    """The policy of that name.

    Raises:
        ValueError: listing the names there are.
    """
    if name not in _registry:
        raise ValueError(f"policy {name!r} is not one of {', '.join(names())}")
    return _registry[name]()


def names() -> list[str]:
    """Names of all registered policies, sorted."""
    return sorted(_registry)
