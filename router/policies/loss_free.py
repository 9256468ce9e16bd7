"""Top-k of score + bias; after each batch the bias of overloaded experts goes down by a fixed step, of others up.

Source: Wang et al., "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts" (2024, arXiv 2408.15664),
sign update. The bias is kept as a price (largest bias - bias). The paper trains with a step of 0.001; serving must
follow a burst within tens of batches, so the step is 0.01.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops import choose
from router.capacity import fair_load
from router.plan import check_inputs, choice_scores, make_plan, next_state
from router.policies.base import register
from router.shapes import RouterState, RoutingPlan

STEP = 0.01


@register
class LossFree:
    """Bias by sign of the last loads: one batch late by design."""

    name = "loss_free"
    bounded = False
    complete = True

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        check_inputs(scores_TE, capacity_E, k, state)
        choice_TE = choice_scores(scores_TE, state.bias_E)
        ids_TK = choose(choice_TE, k, prices_E=state.prices_E, allowed_E=capacity_E > 0)
        plan = make_plan(scores_TE, choice_TE, ids_TK, capacity_E, prices_E=state.prices_E)
        prices_E = state.prices_E + STEP * torch.sign(plan.load_E - fair_load(capacity_E, scores_TE.shape[0] * k))
        return plan, RouterState(prices_E - prices_E.min(), state.bias_E, next_state(state, plan).step)
