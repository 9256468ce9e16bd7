"""Slots laid round a ring of free places at even phases, blind to scores: exact balance without any shared count.

Source: the Phase Router (TSltd/phase_router_rs). Each expert owns an arc as long as its capacity; the slots of all
tokens step round the ring, and the slots of one token stand a whole turn / k apart, further than any arc is long,
so that its experts are distinct. A seeded permutation of the tokens takes the place of the column permutations, and
because every place is used at most once the capacities are hard (in the original they hold on average).
"""

from __future__ import annotations

import torch
from torch import Tensor

from router.plan import check_inputs, choice_scores, make_plan, next_state
from router.policies.base import register
from router.shapes import RouterState, RoutingPlan


@register
class Phase:
    """Oblivious, balanced to the slot, any capacities."""

    name = "phase"
    bounded = True
    complete = True

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        check_inputs(scores_TE, capacity_E, k, state)
        choice_TE = choice_scores(scores_TE, state.bias_E)
        tokens, device = scores_TE.shape[0], scores_TE.device
        arc_E = capacity_E.clamp_max(tokens)
        places, slots = int(arc_E.sum()), tokens * k
        owner_P = torch.repeat_interleave(torch.arange(arc_E.numel(), device=device), arc_E)
        # Slot j of the token in position i is number j*T + i; too few places leave the last numbers empty.
        count = min(slots, places)
        step_N = torch.arange(count, device=device)
        place_N = step_N * max(places, slots) // max(slots, 1)
        ids_N = torch.full((slots,), -1, dtype=torch.int64, device=device)
        ids_N[:count] = owner_P[place_N]
        shuffle = torch.Generator(device).manual_seed(state.step)
        ids_TK = torch.empty(tokens, k, dtype=torch.int64, device=device)
        ids_TK[torch.randperm(tokens, generator=shuffle, device=device)] = ids_N.view(k, tokens).T
        plan = make_plan(scores_TE, choice_TE, ids_TK, capacity_E)
        return plan, next_state(state, plan)
