"""Flows say who gave to whom."""

import pytest
import torch

from recsys.engine.telemetry import flows
from router.plan import make_plan
from router.router import Router
from router.shapes import RoutingPlan


def plan(wishes: list[list[int]], got: list[list[int]], experts: int) -> RoutingPlan:
    wishes_TK, got_TK = (torch.tensor(slots, dtype=torch.int64).view(-1, 2) for slots in (wishes, got))
    scores_TE = torch.ones(len(wishes), experts)
    return make_plan(scores_TE, scores_TE, got_TK, torch.full((experts,), len(wishes)), wishes_TK=wishes_TK)


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


@pytest.mark.parametrize("policy", ["price", "drop", "topk"])
def test_every_redirected_slot_of_a_policy_flows_from_an_unmet_wish(policy: str) -> None:
    scores_TE = torch.rand(500, 8, generator=torch.Generator().manual_seed(0)).pow(3).softmax(1)
    scores_TE[:, 0] += 1.0  # a crowd
    router = Router(policy, capacity_factor=1.0, layers=1, experts=8)
    routed = router.route(0, scores_TE, 2, torch.zeros(8))
    flow_EE = flows(routed)
    got_E = torch.bincount(routed.expert_ids_TK[routed.expert_ids_TK >= 0], minlength=8)
    assert int(flow_EE.sum()) == int(routed.redirected_TK.sum())
    dropped = routed.expert_ids_TK < 0
    dropped_E = torch.bincount(routed.wishes_TK[dropped], minlength=8)
    assert torch.equal(routed.demand_E - flow_EE.sum(1) - dropped_E + flow_EE.sum(0), got_E)
