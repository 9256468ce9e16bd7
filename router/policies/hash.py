"""Experts drawn by a seeded hash, blind to scores, in proportion to capacity.

Source: Roller et al., "Hash Layers For Large Sparse Models" (2021, arXiv 2106.04426); drawn without replacement
with weights after Efraimidis and Spirakis (2006), so that unequal capacities are met on average. The oblivious
baseline.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops import choose
from router.plan import check_inputs, choice_scores, make_plan, next_state
from router.policies.base import register
from router.shapes import RouterState, RoutingPlan


@register
class Hash:
    """k experts per token, drawn with the batch number as seed."""

    name = "hash"
    bounded = False
    complete = True

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        check_inputs(scores_TE, capacity_E, k, state)
        choice_TE = choice_scores(scores_TE, state.bias_E)
        draws = torch.Generator(scores_TE.device).manual_seed(state.step)
        draw_TE = torch.rand(scores_TE.shape, generator=draws, device=scores_TE.device).clamp_min(1e-30)
        ids_TK = choose(draw_TE.log() / capacity_E.clamp_min(1), k, allowed_E=capacity_E > 0)
        plan = make_plan(scores_TE, choice_TE, ids_TK, capacity_E)
        return plan, next_state(state, plan)
