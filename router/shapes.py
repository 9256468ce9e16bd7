"""The letters of tensor suffixes, and the data that routing passes around.

    B requests   N candidates per request   T = B*N tokens   D width   H hidden width of an expert
    E experts    K experts per token        S slots          C capacity (slots per expert)
    L history    I items                    G goals (task heads)

`scores_TE` is a (T, E) tensor, `load_E` has one number per expert, and so on, here and in every other module.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class OwnThreshold:
    """Where experts decide by themselves: what a score has to pass, and the most experts that a token may have.

    Attributes:
        value: 0-d float tensor, learnt in training.
        slots: K of the plan, at least the mean k.
    """

    value: Tensor
    slots: int


@dataclass(frozen=True, slots=True)
class RouterState:
    """What a policy carries from one micro-batch to the next. A plain value: policies return a new one.

    Attributes:
        prices_E: prices of the last batch, float32, >= 0; a warm start only, never trusted.
        bias_E: bias learnt in training (loss-free balancing), added to the scores for choosing, never for weighing.
        step: number of batches routed; the seed of everything that is random in a policy.
        own: set for each batch where experts decide by themselves; policy `threshold` keeps to it, others compare.
    """

    prices_E: Tensor
    bias_E: Tensor
    step: int = 0
    own: OwnThreshold | None = None

    @staticmethod
    def initial(experts: int, *, bias_E: Tensor | None = None, device: torch.device | str = "cpu") -> RouterState:
        """State before the first batch: no prices, and the bias that training left (default none)."""
        zeros_E = torch.zeros(experts, device=device)
        return RouterState(prices_E=zeros_E, bias_E=zeros_E if bias_E is None else bias_E)


@dataclass(frozen=True, slots=True)
class RoutingPlan:
    """Who computes what in one micro-batch.

    Attributes:
        wishes_TK: the unconstrained choices, int64; what plain top-k would have used; -1 where experts that decide by
            themselves left a slot empty.
        expert_ids_TK: expert of each slot of each token, int64, distinct within a token; -1 = slot not used.
        gates_TK: weights of the chosen experts, from the scores *without* bias or price; 0 where not used,
            and they sum to 1 over the used slots of a token.
        rank_TK: row of the slot inside its expert's block, int64; -1 where not used. Unique per expert, 0..load-1.
        demand_E: wishes per expert, int64.
        load_E: slots really given, int64.
        prices_E: price of each expert, float32, >= 0.
        redirected_TK: True where a used slot is not one of the token's unconstrained choices; it replaces the wish
            in the same slot, and a wish that came true stands in its own.
        score_kept: score of the routes / score of the unconstrained routes, a 0-d float tensor.
        certified_gap: upper bound on (optimum - score of the routes) / optimum by weak duality, a 0-d float
            tensor; NaN for policies that have no certificate.
        capacity_E: slots each expert had, int64; `load_E <= capacity_E` where the policy promises it.
    """

    wishes_TK: Tensor
    expert_ids_TK: Tensor
    gates_TK: Tensor
    rank_TK: Tensor
    demand_E: Tensor
    load_E: Tensor
    prices_E: Tensor
    redirected_TK: Tensor
    score_kept: Tensor
    certified_gap: Tensor
    capacity_E: Tensor
