"""The model of devices: work in is work out, queues drain, deadlines hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from router.gates import TopicGates
from router.lanes import Fault, Lanes, Placement, lane_of_slots
from router.policies import get
from router.shapes import RouterState


def two_lanes(*faults: Fault) -> Lanes:
    return Lanes(2, slots_per_s=100, overhead_s=0, faults=faults)


def batch(*slots: int) -> torch.Tensor:
    """One slot per token; how many go to each lane."""
    return torch.repeat_interleave(torch.arange(len(slots)), torch.tensor(slots))[:, None]


def test_a_batch_takes_as_long_as_its_slowest_lane_and_the_next_one_waits() -> None:
    lanes = two_lanes()
    assert lanes.serve(batch(10, 50), now_s=0, deadline_s=9).seconds == pytest.approx(0.5)
    assert lanes.backlog(0.2).tolist() == pytest.approx([0, 30])
    assert lanes.serve(batch(10, 10), now_s=0.2, deadline_s=9).seconds == pytest.approx(0.4)
    assert lanes.backlog(2).tolist() == [0, 0]


def test_what_cannot_be_done_in_time_is_refused_last_rows_first() -> None:
    step = two_lanes().serve(batch(30, 200), now_s=1, deadline_s=1)
    assert step.served_L.tolist() == [30, 100]
    assert step.seconds == pytest.approx(1)
    assert step.served_TK[:130].all()
    assert not step.served_TK[130:].any()


def test_slow_and_dead_lanes() -> None:
    lanes = two_lanes(Fault(0, 0.5, from_s=0), Fault(1, 0.0, from_s=0, to_s=10))
    step = lanes.serve(batch(10, 10), now_s=1, deadline_s=1)
    assert step.served_L.tolist() == [10, 0]
    assert step.seconds == pytest.approx(0.2)
    assert step.busy_s_L.tolist() == pytest.approx([0.2, 1.0])
    assert lanes.serve(batch(0, 10), now_s=10, deadline_s=1).served_L.tolist() == [0, 10]


@given(
    replicas=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    lanes=st.integers(1, 9),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_placement_keeps_every_copy_and_fills_lanes_evenly(replicas: list[int], lanes: int, seed: int) -> None:
    demand_E = torch.rand(len(replicas), generator=torch.Generator().manual_seed(seed))
    copies_EL = Placement.of(torch.tensor(replicas), lanes, demand_E).copies_EL
    assert (copies_EL.sum(dim=1) >= torch.tensor(replicas)).all()
    assert int(copies_EL.sum()) == max(sum(replicas), lanes)
    held_L = copies_EL.sum(dim=0)
    assert int(held_L.max()) <= -(-int(copies_EL.sum()) // lanes)


@given(lanes=st.integers(1, 20), spare=st.integers(0, 6), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_slots_go_to_lanes_that_hold_their_expert_and_within_their_room(lanes: int, spare: int, seed: int) -> None:
    experts, tokens = 6, 200
    draws = torch.Generator().manual_seed(seed)
    placement = Placement.of(torch.tensor([1 + spare, 1, 1, 1, 1, 1]), lanes)
    room_L = (torch.rand(lanes, generator=draws) * 1000 / lanes).floor() * (torch.rand(lanes, generator=draws) > 0.1)
    capacity_E, share_EL = placement.capacity(room_L, tokens)
    scores_TE = TopicGates(experts).draw(tokens, seed=seed)
    plan, _ = get("price").route(scores_TE, capacity_E, 2, RouterState.initial(experts))
    lane_TK = lane_of_slots(plan, share_EL)
    used_TK = plan.expert_ids_TK >= 0
    assert torch.equal(lane_TK >= 0, used_TK)
    assert (placement.copies_EL[plan.expert_ids_TK[used_TK], lane_TK[used_TK]] > 0).all()
    load_L = torch.bincount(lane_TK[used_TK], minlength=lanes)
    assert (load_L <= room_L + 2 * experts).all()  # whole slots: one more per expert and edge of a share


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(ValueError, match=r"lanes must be in 1\.\.256, not 257"):
        Lanes(257, slots_per_s=1, overhead_s=0)
    with pytest.raises(ValueError, match="slots_per_s must be > 0"):
        Lanes(1, slots_per_s=0, overhead_s=0)
    with pytest.raises(ValueError, match=r"a lane in 0\.\.0 and a speed >= 0"):
        Lanes(1, slots_per_s=1, overhead_s=0, faults=(Fault(1, 0.5, 0),))
