"""More candidates than needed, capacity by score, then each token's best survivors.

Source: expanded drop of "Capacity-Aware Inference: Mitigating the Straggler Effect in Mixture of Experts" (2025,
arXiv 2503.05066).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops import choose
from router.capacity import keep_best
from router.plan import check_inputs, choice_scores, make_plan, next_state
from router.policies.base import register
from router.shapes import RouterState, RoutingPlan

WIDENING = 2  # candidates per slot, as in the paper


@register
class ExpandedDrop:
    """Drop by score among the top 2k."""

    name = "expanded_drop"
    bounded = True
    complete = False

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        check_inputs(scores_TE, capacity_E, k, state)
        choice_TE = choice_scores(scores_TE, state.bias_E)
        candidates_TM = choose(choice_TE, min(WIDENING * k, scores_TE.shape[1]))
        kept_TM = keep_best(candidates_TM, choice_TE.gather(1, candidates_TM), capacity_E)
        # Candidates stand best first, so the best survivors are the first k of them.
        kept_TM &= kept_TM.cumsum(dim=1) <= k
        first_TM = torch.where(kept_TM, 0, 1).argsort(dim=1, stable=True)[:, :k]
        ids_TK = torch.where(kept_TM, candidates_TM, -1).gather(1, first_TM)
        plan = make_plan(scores_TE, choice_TE, ids_TK, capacity_E)
        return plan, next_state(state, plan)
