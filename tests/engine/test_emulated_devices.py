"""Where each expert has a device of its own, a micro-batch lasts as long as its fullest expert."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from recsys.config import EngineSettings, RouterSettings, Settings
from recsys.engine.engine import Engine
from recsys.engine.wanted import Wanted
from recsys.state.items import CatalogueItem
from recsys.wire import RankRequest
from router.shapes import RoutingPlan

LANE_US = 4.0
ITEMS = {f"i{n}": CatalogueItem(item_id=f"i{n}", title="t", ts=0) for n in range(150)}


@pytest.fixture
def waits_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been slept."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


@pytest.fixture
def engine(tiny_model: Path) -> Engine:
    found = Engine(
        Settings(engine=EngineSettings(model_dir=tiny_model, batch_max=4), router=RouterSettings(lane_us=LANE_US))
    )
    found.set_catalogue(ITEMS)
    return found


def one_step(engine: Engine, policy: str, requests: int = 4) -> list[RoutingPlan]:
    engine.set_wanted(Wanted(policy, capacity_factor=1.0, lane_us=LANE_US))
    for n in range(requests):
        assert engine.admit(b"peer", RankRequest(id=str(n), time_left_ms=1e5, k=5, history=("i1",))) is None
    batch, _ = engine.take(time.monotonic())
    assert batch is not None
    engine.compute(batch)
    assert batch.result is not None
    return list(batch.result.plans)


def fullest_s(plans: list[RoutingPlan]) -> float:
    return sum(int(plan.load_E.max()) for plan in plans) * LANE_US / 1e6


def test_a_step_waits_for_the_fullest_expert_of_each_layer_and_a_balanced_one_for_less(
    engine: Engine, waits_s: list[float]
) -> None:
    plain, balanced = one_step(engine, "topk"), one_step(engine, "price")
    assert waits_s == [pytest.approx(fullest_s(plans)) for plans in (plain, balanced)]
    assert sum(int(plan.load_E.sum()) for plan in plain) == sum(int(plan.load_E.sum()) for plan in balanced)
    assert fullest_s(balanced) < 0.8 * fullest_s(plain)


def test_experts_are_sized_for_the_micro_batch_at_hand_since_all_wait_for_its_fullest(
    engine: Engine, waits_s: list[float]
) -> None:
    plain, balanced = one_step(engine, "topk", requests=1), one_step(engine, "price", requests=1)
    assert max(int(plan.load_E.max()) for plan in balanced) <= 150 * 2 / 8 + 1, "not for the 4 of a full one"
    assert fullest_s(balanced) < fullest_s(plain)


def test_the_setting_counts_from_the_start_and_in_what_steps_are_expected_to_take(engine: Engine) -> None:
    snapshot = engine.snapshot()
    assert snapshot.lane_us == LANE_US
    assert snapshot.health == [1.0] * 8
    mean_slots = 4 * 150 * 2 / 8
    assert engine._pace.step_s(4) > 2 * mean_slots * LANE_US / 1e6  # of two layers


def test_another_lane_time_makes_step_times_be_learned_anew(engine: Engine, waits_s: list[float]) -> None:
    engine.set_wanted(Wanted("topk", capacity_factor=1.0, lane_us=0.0))
    engine.admit(b"peer", RankRequest(id="r", time_left_ms=1e5, k=5, history=("i1",)))
    engine.take(time.monotonic())
    assert engine._pace.step_s(4) == 0.0
    assert not waits_s
