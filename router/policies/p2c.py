"""The less loaded of two good experts, slot by slot.

Source: the power of two choices (Azar et al. 1999; Mitzenmacher 2001) inside each token's best 2k candidates: slot
j looks at the two best candidates it has left and takes the one with the smaller share of its capacity in use.
Tokens are taken in small groups that see the loads that the groups before left, since two choices stay good on
slightly old loads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops import choose
from router.plan import check_inputs, choice_scores, make_plan, next_state
from router.policies.base import register
from router.shapes import RouterState, RoutingPlan

GROUPS = 64  # of tokens that see the same loads, at most
SMALLEST_GROUP = 16


@register
class PowerOfTwoChoices:
    """Join the shorter of two queues among the gate's favourites."""

    name = "p2c"
    bounded = False
    complete = True

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        check_inputs(scores_TE, capacity_E, k, state)
        choice_TE = choice_scores(scores_TE, state.bias_E)
        tokens, experts = scores_TE.shape
        pool_TM = choose(choice_TE, min(2 * k, experts), allowed_E=capacity_E > 0)
        load_E, ids_TK = torch.zeros_like(capacity_E), torch.full((tokens, k), -1, device=scores_TE.device)
        group = max(SMALLEST_GROUP, -(-tokens // GROUPS))
        for start in range(0, tokens, group):
            left_GM = pool_TM[start : start + group].clone()
            for slot in range(min(k, left_GM.shape[1])):
                first_G, second_G = left_GM[:, 0], left_GM[:, min(1, left_GM.shape[1] - 1)]
                used_E = load_E / capacity_E.clamp_min(1)
                other_G = (second_G >= 0) & (used_E[second_G.clamp_min(0)] < used_E[first_G.clamp_min(0)])
                ids_TK[start : start + group, slot] = torch.where(other_G, second_G, first_G)
                left_GM = torch.cat((torch.where(other_G, first_G, second_G)[:, None], left_GM[:, 2:]), dim=1)
            taken_N = ids_TK[start : start + group].flatten()
            load_E += torch.bincount(taken_N[taken_N >= 0], minlength=experts)
        plan = make_plan(scores_TE, choice_TE, ids_TK, capacity_E)
        return plan, next_state(state, plan)
