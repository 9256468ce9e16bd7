"""Top-k, then every overfull expert keeps its best-scored tokens and drops the rest.

Source: "Capacity-Aware Inference: Mitigating the Straggler Effect in Mixture of Experts" (2025, arXiv 2503.05066),
token drop by gate score; the capacity rule itself is GShard's and Switch's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops import choose
from router.capacity import keep_best
from router.plan import check_inputs, choice_scores, make_plan, next_state
from router.policies.base import register
from router.shapes import RouterState, RoutingPlan


@register
class Drop:
    """Capacity by score, without a second chance."""

    name = "drop"
    bounded = True
    complete = False

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        check_inputs(scores_TE, capacity_E, k, state)
        choice_TE = choice_scores(scores_TE, state.bias_E)
        wishes_TK = choose(choice_TE, k)
        kept_TK = keep_best(wishes_TK, choice_TE.gather(1, wishes_TK), capacity_E)
        ids_TK = torch.where(kept_TK, wishes_TK, -1)
        plan = make_plan(scores_TE, choice_TE, ids_TK, capacity_E, wishes_TK=wishes_TK)
        return plan, next_state(state, plan)
