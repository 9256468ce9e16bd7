"""What is decided over seconds: spare slots for hot experts, and whether a policy may stay."""

from __future__ import annotations

import msgspec
import pytest

from recsys.engine.quality_budget import BudgetWatch, QualityBudget
from recsys.engine.spare_slots import SpareSlots
from recsys.wire import LayerLoad, LoadSnapshot


def layer(demand: list[int], score_kept: float = 1.0) -> LayerLoad:
    return LayerLoad(
        demand=demand, served=demand, redirected_in=[], redirected_out=[], dropped=0, capacity=[], price=[],
        max_over_mean_demand=1.0, max_over_mean_served=1.0, score_kept=score_kept, certified_gap=0.0, flow=[],
    )  # fmt: skip


def snapshot(tokens: int, *score_kept: float) -> LoadSnapshot:
    given = {"engine": "e", "model_version": "m", "policy": "drop", "step": "calm", "tokens": tokens}
    numbers = {f.name: 0 for f in msgspec.inspect.type_info(LoadSnapshot).fields if f.required}  # type: ignore[union-attr]
    return LoadSnapshot(**{**numbers, **given, "layers": [layer([1], kept) for kept in score_kept]})


def test_spare_slots_follow_the_crowd_and_stay_for_a_while() -> None:
    spares = SpareSlots(4, 2, now_s=0.0)
    assert sum(spares.replicas_E.tolist()) == 6
    moved = [spares.observe([layer([10, 10, 10, 400])], now_s=float(n)) for n in range(1, 4)]
    assert moved == [True, False, False]  # one change, and none so soon after it
    assert spares.replicas_E.tolist() == [1, 1, 1, 3]
    for n in range(4, 40):
        spares.observe([layer([400, 10, 10, 10])], now_s=float(n))
    assert spares.replicas_E.tolist() == [3, 1, 1, 1]


def test_without_spare_slots_nothing_moves() -> None:
    spares = SpareSlots(3, 0, now_s=0.0)
    assert not spares.observe([layer([1, 1, 900])], now_s=10.0)
    assert spares.replicas_E.tolist() == [1, 1, 1]


def watch() -> BudgetWatch:
    return BudgetWatch(QualityBudget("s", score_kept_min=0.95, seconds=2.0), now_s=0.0)


def test_a_budget_is_broken_by_seconds_and_not_by_a_moment() -> None:
    watching = watch()
    for n in range(8):
        assert watching.observe(snapshot(100, 0.90, 0.90), now_s=n / 4) is None
    assert watching.observe(snapshot(100, 0.90, 0.90), now_s=2.0) == pytest.approx(0.90)


def test_the_mean_is_over_tokens_and_layers() -> None:
    watching = watch()
    watching.observe(snapshot(900, 0.98, 1.0), now_s=1.0)
    assert watching.observe(snapshot(100, 0.70, 0.90), now_s=2.0) is None  # 0.971
    assert watching.observe(snapshot(5_000, 0.90, 0.90), now_s=2.5) is not None


def test_without_traffic_nothing_is_broken_and_old_times_are_forgotten() -> None:
    watching = watch()
    watching.observe(snapshot(100, 0.5), now_s=0.5)
    assert watching.observe(snapshot(0), now_s=3.0) is None
    assert watching.observe(snapshot(100, 0.99), now_s=3.1) is None
