"""The backlog is the price: top-k of V * score - queue.

Source: Neely, "Stochastic Network Optimization with Application to Communication and Queueing Systems" (2010),
drift plus penalty. The virtual queue of an expert grows by its load and drains by its capacity in each batch;
measured in batches of work, price = queue / V. Utility is within O(1/V) of the best, backlog O(V): the price comes
only after the queue.
"""

from __future__ import annotations

from torch import Tensor

from kernels.ops import choose
from router.plan import check_inputs, choice_scores, make_plan, next_state
from router.policies.base import register
from router.shapes import RouterState, RoutingPlan

V = 10.0  # batches of backlog that one unit of score is worth


@register
class DriftPlusPenalty:
    """Queue-driven prices, carried from batch to batch."""

    name = "drift_plus_penalty"
    bounded = False
    complete = True

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        check_inputs(scores_TE, capacity_E, k, state)
        choice_TE = choice_scores(scores_TE, state.bias_E)
        ids_TK = choose(choice_TE, k, prices_E=state.prices_E, allowed_E=capacity_E > 0)
        plan = make_plan(scores_TE, choice_TE, ids_TK, capacity_E, prices_E=state.prices_E)
        growth_E = (plan.load_E - capacity_E) / capacity_E.clamp_min(1)
        prices_E = (state.prices_E + growth_E / V).clamp_min(0)
        return plan, RouterState(prices_E, state.bias_E, next_state(state, plan).step)
