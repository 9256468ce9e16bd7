"""An expert takes a token when the token's score passes the expert's own threshold; no token is compared with another.

Source: Expert Threshold routing (2026, arXiv 2603.11535) and the self-activation of routing-free experts (arXiv
2604.00801). The threshold of an expert is a moving average of the score that its fair share of tokens reached, so
it holds the load on average and carries the load price; a token's choice depends on earlier batches only, and so
works for a batch of one. A token keeps at most its k best margins and at least one expert.

A model whose experts decide by themselves brings a threshold of its own (`RouterState.own`). It stays as it is, and
what moves is a load price on top: what an expert's threshold has to rise by for its load to fit its capacity, 0 while
it fits. A token then keeps the experts that pass, which may be none.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kernels.ops import choose, kth_largest_of_rows, rank_slots
from router.capacity import fair_load
from router.plan import check_inputs, choice_scores, make_plan, next_state
from router.policies.base import register
from router.shapes import OwnThreshold, RouterState, RoutingPlan

MEMORY = 0.5  # weight of the past in the moving average


@register
class Threshold:
    """Per-expert thresholds from the batches before. The first batch, with none before it, uses its own."""

    name = "threshold"
    bounded = False
    complete = False

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        check_inputs(scores_TE, capacity_E, k, state)
        if state.own is not None:
            return _by_themselves(scores_TE, capacity_E, state, state.own)
        choice_TE = choice_scores(scores_TE, state.bias_E)
        tokens = scores_TE.shape[0]
        now_E = state.prices_E
        if tokens:
            wanted = (fair_load(capacity_E, tokens * k) + 1).long().clamp(1, tokens).tolist()
            now_E = kth_largest_of_rows(choice_TE.T.contiguous(), wanted).to(state.prices_E.dtype)
        threshold_E = state.prices_E if state.step else now_E
        ids_TK = choose(choice_TE, k, prices_E=threshold_E, allowed_E=capacity_E > 0)
        margin_TK = (choice_TE - threshold_E).gather(1, ids_TK.clamp_min(0))
        margin_TK[:, 0] = torch.inf
        plan = make_plan(scores_TE, choice_TE, ids_TK.masked_fill(margin_TK <= 0, -1), capacity_E, prices_E=threshold_E)
        prices_E = MEMORY * threshold_E + (1 - MEMORY) * now_E
        return plan, RouterState(prices_E, state.bias_E, next_state(state, plan).step)


def _by_themselves(
    scores_TE: Tensor, capacity_E: Tensor, state: RouterState, own: OwnThreshold
) -> tuple[RoutingPlan, RouterState]:
    """Wishes are the scores above the model's threshold; the load price only takes away."""
    tokens, experts = scores_TE.shape
    choice_TE = choice_scores(scores_TE, state.bias_E)
    wishes_TK = choose(choice_TE, own.slots)
    margin_TK = choice_TE.gather(1, wishes_TK) - own.value
    wishes_TK = wishes_TK.masked_fill(margin_TK <= 0, -1)
    margin_TK = margin_TK.clamp_min(0)  # of a wish > 0, else 0
    now_E = torch.zeros_like(state.prices_E)
    if tokens:
        margin_TE = torch.zeros_like(choice_TE).scatter_add_(1, wishes_TK.clamp_min(0), margin_TK)
        first_out_E = kth_largest_of_rows(margin_TE.T.contiguous(), (capacity_E + 1).tolist())
        now_E = first_out_E.clamp_min(0).to(now_E.dtype)
    price_E = state.prices_E if state.step else now_E
    dear_TK = (margin_TK <= price_E[wishes_TK]) | (capacity_E == 0)[wishes_TK]
    ids_TK = wishes_TK.masked_fill(dear_TK, -1)
    plan = make_plan(scores_TE, choice_TE, ids_TK, capacity_E, wishes_TK=ids_TK, prices_E=price_E)
    wished = choice_TE.gather(1, wishes_TK.clamp_min(0)).mul(wishes_TK >= 0).sum()
    kept = choice_TE.gather(1, ids_TK.clamp_min(0)).mul(ids_TK >= 0).sum()
    plan = replace(
        plan,
        wishes_TK=wishes_TK,
        demand_E=rank_slots(wishes_TK, experts)[1],
        score_kept=torch.where(wished > 0, kept / wished, 1.0),
    )
    prices_E = MEMORY * price_E + (1 - MEMORY) * now_E
    return plan, RouterState(prices_E, state.bias_E, next_state(state, plan).step)
