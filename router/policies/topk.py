"""Each token takes its k best experts; load falls where it falls.

Source: Shazeer et al., "Outrageously Large Neural Networks" (2017, arXiv 1701.06538). The base that every other
policy is compared with, and the only one whose answer for a token depends on nothing else in the batch. It knows no
capacity but none: an expert without any is dead, and the next best one takes its place.
"""

from __future__ import annotations

from torch import Tensor

from kernels.ops import choose
from router.plan import check_inputs, choice_scores, make_plan, next_state
from router.policies.base import register
from router.shapes import RouterState, RoutingPlan


@register
class TopK:
    """Plain top-k of score + bias."""

    name = "topk"
    bounded = False
    complete = True

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        check_inputs(scores_TE, capacity_E, k, state)
        choice_TE = choice_scores(scores_TE, state.bias_E)
        ids_TK = wishes_TK = choose(choice_TE, k)
        if scores_TE.shape[0] and bool((capacity_E == 0).any()):
            ids_TK = choose(choice_TE, k, allowed_E=capacity_E > 0)
        plan = make_plan(scores_TE, choice_TE, ids_TK, capacity_E, wishes_TK=wishes_TK)
        return plan, next_state(state, plan)
