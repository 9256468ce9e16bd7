"""Prices from entropic balancing: rows and columns of exp(score / temperature) scaled in turn, then top-k of the plan.

Source: Clark et al., "Unified Scaling Laws for Routed Language Models" (2022, arXiv 2202.01169), S-BASE. The column
scaling is a price, so that the top-k of the plan is the top-k of score - price. Balances the soft plan, not the
choice: some imbalance stays.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops import choose
from router.capacity import fair_load
from router.plan import check_inputs, choice_scores, make_plan, next_state
from router.policies.base import register
from router.shapes import RouterState, RoutingPlan

ITERATIONS = 20
TEMPERATURE = 0.05


@register
class Sinkhorn:
    """Twenty scalings of rows to k and of columns to the experts' shares."""

    name = "sinkhorn"
    bounded = False
    complete = True

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        check_inputs(scores_TE, capacity_E, k, state)
        choice_TE = choice_scores(scores_TE, state.bias_E)
        prices_E = torch.zeros_like(choice_TE[:0].sum(dim=0))
        alive_A = capacity_E.nonzero().flatten()
        if scores_TE.shape[0] and alive_A.numel():
            kernel_TA = (
                ((choice_TE - choice_TE.amax(dim=1, keepdim=True))[:, alive_A] / TEMPERATURE).exp().clamp_min(1e-30)
            )
            share_A = fair_load(capacity_E, scores_TE.shape[0] * k)[alive_A].to(kernel_TA.dtype)
            scale_A = torch.ones_like(share_A)
            for _ in range(ITERATIONS):
                row_T = k / (kernel_TA @ scale_A)
                scale_A = share_A / (row_T @ kernel_TA)
            prices_A = -TEMPERATURE * scale_A.clamp(1e-30, 1e30).log()
            prices_E[alive_A] = prices_A - prices_A.min()
        ids_TK = choose(choice_TE, k, prices_E=prices_E, allowed_E=capacity_E > 0)
        plan = make_plan(scores_TE, choice_TE, ids_TK, capacity_E, prices_E=prices_E)
        return plan, next_state(state, plan)
