"""The router a model is called with: a policy, its capacity, and what it remembers between micro-batches."""

from __future__ import annotations

import torch
from torch import Tensor

from router.capacity import uniform_capacity
from router.policies import get
from router.shapes import OwnThreshold, RouterState, RoutingPlan


class Router:
    """One policy for every MoE layer of a model, with a state per layer. Not thread-safe: one router per engine thread.

    Attributes:
        policy: the policy (`policy.name`, `policy.bounded`, `policy.complete`).
        capacity_factor: slots per expert over the mean load; may be set at any time, counts from the next batch.
        tokens_min: a batch smaller than this gets the capacity of a batch of this size, because an expert that can
            serve a full batch in time can serve a small one too; may be set at any time.
        last_plans: plan of the last batch of each layer; None before the first.
        masks_padding: whether padding may be among the tokens of `route`; here only real ones may.
    """

    masks_padding = False

    def __init__(self, policy: str, *, capacity_factor: float, layers: int, experts: int) -> None:
        """Raises ValueError: unknown policy, or a number outside its bound."""
        if layers < 1:
            raise ValueError(f"layers must be >= 1, not {layers}")
        if experts < 1:
            raise ValueError(f"experts must be >= 1, not {experts}")
        self.policy = get(policy)
        self.capacity_factor = capacity_factor
        self.tokens_min = 0
        self.experts = experts
        self.last_plans: list[RoutingPlan | None] = [None] * layers
        self._states = [RouterState.initial(experts) for _ in range(layers)]
        self._said_E: Tensor | None = None
        self._dealt_E: Tensor | None = None
        self.set_health(torch.ones(experts))
        self.set_replicas(torch.ones(experts))

    @staticmethod
    def unconstrained(layers: int, experts: int) -> Router:
        """Plain top-k without limits: training, evaluation, and the base for comparison."""
        return Router("topk", capacity_factor=1.0, layers=layers, experts=experts)

    @property
    def capacity_factor(self) -> float:
        return self._capacity_factor

    @capacity_factor.setter
    def capacity_factor(self, value: float) -> None:
        if not 0 < value < float("inf"):
            raise ValueError(f"capacity_factor must be > 0 and finite, not {value}")
        self._capacity_factor = float(value)

    def set_health(self, health_E: Tensor) -> None:
        """Share of its capacity that each expert has left: 1 well, 0 dead. The same tensor again says nothing new.

        Raises:
            ValueError: wrong shape, or a value outside [0, 1].
        """
        if health_E is self._said_E:
            return
        if health_E.shape != (self.experts,):
            raise ValueError(f"health must have shape ({self.experts},), not {tuple(health_E.shape)}")
        if not bool(((health_E >= 0) & (health_E <= 1)).all()):
            raise ValueError("health must be in [0, 1] for every expert")
        self._health_E = health_E.detach().to("cpu", torch.float64)
        self._lost = bool((health_E < 1).any())
        self._said_E = health_E

    def set_replicas(self, replicas_E: Tensor) -> None:
        """Slots of each expert: 1, and more for a hot one that was given spare ones. The same again says nothing new.

        Raises:
            ValueError: wrong shape, or less than one.
        """
        if replicas_E is self._dealt_E:
            return
        if replicas_E.shape != (self.experts,) or bool((replicas_E < 1).any()):
            raise ValueError(f"replicas must be >= 1 for each of {self.experts} experts")
        self._replicas_E = replicas_E.detach().to("cpu", torch.float64)
        self._spare = bool((replicas_E > 1).any())
        self._dealt_E = replicas_E

    def capacity(self, tokens: int, k: int) -> Tensor:
        """Slots per expert for a batch of that many tokens, int64 (E,).

        In proportion to replicas and health. One that is not well is sized for this batch alone, since all would wait
        for it. What such experts cannot take is added to the others as far as the capacity factor (at most 1) asks for
        it, so that a dead expert costs no slots.
        """
        longest = max(tokens, self.tokens_min)
        most = uniform_capacity(longest, k, self.experts, self.capacity_factor)
        if not (self._lost or self._spare):
            return torch.full((self.experts,), most, dtype=torch.int64)
        own = uniform_capacity(tokens, k, self.experts, self.capacity_factor)
        slots_E = self._health_E * self._replicas_E * torch.where(self._health_E < 1, own, most)
        needed = min(1.0, self.capacity_factor) * tokens * k
        slots_E = slots_E * max(1.0, needed / max(float(slots_E.sum()), 1e-9))
        return (slots_E - 1e-9).ceil().clamp_max(longest).to(torch.int64)

    def static_capacity(self, tokens: int, k: int) -> int | None:
        """Rows per expert to lay out for a batch of that many tokens; None = run dropless.

        Static slots pay when they are nearly full: not without a bound, not when the batch is below `tokens_min`, and
        not when some experts have spare slots, because all would be laid out as long as the longest.
        """
        if not self.policy.bounded or tokens < self.tokens_min or self._spare:
            return None
        return int(self.capacity(tokens, k).max())

    def route(
        self, layer: int, scores_TE: Tensor, k: int, bias_E: Tensor, own: OwnThreshold | None = None
    ) -> RoutingPlan:
        """Choose experts for one batch of one layer.

        Args:
            layer: which MoE layer, 0..layers-1.
            scores_TE: gate scores, finite and >= 0; gates of the plan are differentiable in them.
            k: experts per token.
            bias_E: bias learnt in training, for choosing only.
            own: where experts decide by themselves; k is then the mean.

        Raises:
            ValueError: naming the argument and its bound.
        """
        if not 0 <= layer < len(self._states):
            raise ValueError(f"layer must be in 0..{len(self._states) - 1}, not {layer}")
        if scores_TE.dim() != 2 or scores_TE.shape[1] != self.experts:
            raise ValueError(f"scores must be (tokens, {self.experts}), not {tuple(scores_TE.shape)}")
        before, device = self._states[layer], scores_TE.device
        state = RouterState(prices_E=before.prices_E.to(device), bias_E=bias_E.detach(), step=before.step, own=own)
        capacity_E = self.capacity(scores_TE.shape[0], k).to(device)
        plan, self._states[layer] = self.policy.route(scores_TE, capacity_E, k, state)
        self.last_plans[layer] = plan
        return plan
