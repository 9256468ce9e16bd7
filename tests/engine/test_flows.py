"""Flows say who gave to whom."""

import torch

from recsys.engine.telemetry import flows
from router.shapes import RoutingPlan


def plan(wishes: list[list[int]], got: list[list[int]], experts: int) -> RoutingPlan:
    wishes_TK, got_TK = (torch.tensor(slots, dtype=torch.int64).view(-1, 2) for slots in (wishes, got))
    redirected_TK = (got_TK >= 0) & ~(got_TK[:, :, None] == wishes_TK[:, None, :]).any(2)
    return RoutingPlan(
        wishes_TK=wishes_TK,
        expert_ids_TK=got_TK,
        gates_TK=torch.zeros(got_TK.shape),
        rank_TK=torch.zeros_like(got_TK),
        demand_E=torch.bincount(wishes_TK.flatten(), minlength=experts),
        load_E=torch.bincount(got_TK[got_TK >= 0], minlength=experts),
        prices_E=torch.zeros(experts),
        redirected_TK=redirected_TK,
        score_kept=torch.tensor(1.0),
        certified_gap=torch.tensor(0.0),
        capacity_E=torch.zeros(experts, dtype=torch.int64),
    )


def test_met_wishes_do_not_flow_whatever_their_order() -> None:
    assert flows(plan([[0, 1], [2, 3]], [[1, 0], [2, 3]], 4)).sum() == 0


def test_an_unmet_wish_flows_to_the_expert_that_took_it() -> None:
    flow = flows(plan([[0, 1], [0, 2]], [[1, 3], [3, 1]], 4))

    assert flow[0, 3] == 2
    assert flow[2, 1] == 1


def test_a_dropped_wish_flows_nowhere() -> None:
    flow = flows(plan([[0, 1]], [[1, -1]], 3))
    assert flow.sum() == 0


def test_no_tokens() -> None:
    assert flows(plan([], [], 2)).tolist() == [[0, 0], [0, 0]]
