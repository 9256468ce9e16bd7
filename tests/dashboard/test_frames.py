"""Snapshots -> frames: the numbers behind the pictures, worked out by hand."""

from __future__ import annotations

import polars as pl
import pytest
from msgspec import structs

from dashboard import flows, frames
from dashboard.answers import Explanation, LayerLoad, LoadSnapshot
from dashboard.calls import CallCounts
from dashboard.system_answers import QueryCounts

T0 = 1_700_000_000_000  # the beginning of a bin


def layer(demand: list[int], served: list[int], flow: list[tuple[int, int, int]] | None = None) -> LayerLoad:
    n, flow = len(demand), flow or []
    return LayerLoad(
        demand=demand, served=served, dropped=0, capacity=[1.25 * sum(demand) / n] * n, price=[0.1] * n,
        redirected_in=[sum(s for _, t, s in flow if t == e) for e in range(n)],
        redirected_out=[sum(s for g, _, s in flow if g == e) for e in range(n)],
        max_over_mean_demand=1.0, max_over_mean_served=1.0, score_kept=0.98, certified_gap=0.001, flow=flow,
    )  # fmt: skip


def snapshot(
    ts: int, *layers: LayerLoad, engine: str = "a", answered: int = 10, **changes: float | str
) -> LoadSnapshot:
    values = {
        "model_version": "m", "policy": "price", "capacity_factor": 1.25, "step": "calm", "pressure": 0.1, "queue": 0,
        "queue_max": 512, "refused": 0, "expired": 0, "failed": 0, "batches": 1, "batch_requests_mean": 1.0,
        "tokens": 10, "step_ms_p50": 1.0, "step_ms_p99": 2.0, "latency_ms_p50": 4.0, "latency_ms_p95": 6.0,
        "latency_ms_p99": 8.0, **changes,
    }  # fmt: skip
    return LoadSnapshot(engine=engine, ts=ts, interval_ms=250.0, answered=answered, layers=list(layers), **values)


def test_load_is_relative_to_the_mean_demand() -> None:
    burst = layer([70, 10, 10, 10], [25, 25, 25, 25], [(0, 1, 15), (0, 2, 15), (0, 3, 15)])
    over_time = frames.load_over_time(frames.expert_loads([snapshot(T0, burst), snapshot(T0 + 250, burst)], 0))
    assert over_time["demand"].to_list() == pytest.approx([2.8, 0.4, 0.4, 0.4])
    assert over_time["served"].to_list() == pytest.approx([1.0] * 4)
    assert over_time["capacity"].to_list() == pytest.approx([1.25] * 4)
    assert over_time["moved_out"][0] == pytest.approx(100 * 45 / 70)
    assert over_time.select("start", "end").unique().rows() == [(-2.0, 0.0)]


def test_a_bin_that_is_over_does_not_change() -> None:
    even = layer([10, 10], [10, 10])
    first = [snapshot(T0, even), snapshot(T0 + 1_900, even)]
    later = [*first, snapshot(T0 + 2_100, layer([19, 1], [10, 10]))]
    before = frames.load_over_time(frames.expert_loads(first, 0))
    after = frames.load_over_time(frames.expert_loads(later, 0)).filter(pl.col("start") == -4)
    assert after.drop("start", "end").equals(before.drop("start", "end"))


def test_bins_without_traffic_are_left_out() -> None:
    quiet = [snapshot(T0, layer([0, 0], [0, 0]))]
    assert frames.load_over_time(frames.expert_loads(quiet, 0)).is_empty()
    assert frames.load_now(frames.expert_loads(quiet, 0))["demand_x"].to_list() == [0.0, 0.0]


def test_nothing_older_than_the_span_is_kept() -> None:
    old = [snapshot(T0 + n * 1_000, layer([1], [1])) for n in range(400)]
    assert frames.load_over_time(frames.expert_loads(old, 0)).height == 60
    assert frames.queries_over_time(frames.queries(old, 0)).height == 60


def test_a_capacity_out_of_reach_is_not_drawn() -> None:
    load = layer([30, 10], [30, 10])
    roomy = snapshot(T0, structs.replace(load, capacity=[800.0, 800.0]))
    loads = frames.expert_loads([roomy], 0)
    assert frames.load_now(loads)["capacity_x"].to_list() == [None, None]
    assert frames.balance_over_time(frames.load_over_time(loads))["capacity"].to_list() == [None]


def test_no_latency_without_answers() -> None:
    rows = [snapshot(T0, layer([0], [0]), answered=0), snapshot(T0 + 2_000, layer([1], [1]))]
    lines = frames.latency_lines(frames.queries_over_time(frames.queries(rows, 0)))
    assert lines["start"].unique().to_list() == [-2.0]


def test_engines_add_up() -> None:
    load = layer([30, 10], [20, 20])
    rows = [snapshot(T0 + ts, load, engine=engine) for ts in (0, 250) for engine in ("a", "b")]
    now = frames.load_now(frames.expert_loads(rows, 0))
    assert now["demand"].to_list() == pytest.approx([2 * 60 / 0.5, 2 * 20 / 0.5])  # slots/s of both
    queries = frames.queries_over_time(frames.queries(rows, 0))
    assert queries["answered"].to_list() == pytest.approx([40 / 0.5])


def test_percentiles_are_never_averaged() -> None:
    load = layer([1], [1])
    rows = [snapshot(T0, load, latency_ms_p99=8.0), snapshot(T0 + 250, load, latency_ms_p99=80.0, step="redirect")]
    queries = frames.queries_over_time(frames.queries(rows, 0))
    assert queries["p99"].to_list() == [80.0]
    assert queries["step"].to_list() == ["redirect"]  # the highest rung of the bin


def test_models_of_different_depth_side_by_side() -> None:
    rows = [
        snapshot(T0, layer([1], [1]), engine="shallow"),
        snapshot(T0, layer([1], [1]), layer([3], [3]), engine="deep"),
    ]
    assert frames.expert_loads(rows, 1)["engine"].to_list() == ["deep"]
    assert frames.queries(rows, 1).height == 2


def test_queries_by_what_became_of_them() -> None:
    rows = [
        snapshot(T0, layer([1], [1]), answered=10, step="calm"),
        snapshot(T0 + 250, layer([1], [1]), answered=20, step="redirect", expired=1, failed=1),
        snapshot(T0 + 500, layer([1], [1]), answered=30, step="economise"),
        snapshot(T0 + 750, layer([1], [1]), answered=40, step="shed", refused=5),
    ]
    calls = [CallCounts("a", T0 + ms, QueryCounts(0, 0, ms // 10, ms // 10, 0)) for ms in (0, 500, 1_000)]
    areas = frames.outcome_areas(frames.queries_over_time(frames.queries(rows, 0), calls))
    assert dict(areas.select("outcome", "rate").iter_rows()) == {
        "calm": 10.0, "redirected": 20.0, "economised": 70.0, "shed_engines": 5.0, "shed_api": 100.0,
        "late_or_failed": 2.0,
    }  # fmt: skip
    assert areas.sort("place")["outcome"].to_list() == list(frames.OUTCOMES)
    alone = frames.queries_over_time(frames.queries(rows, 0))
    assert alone["shed_api"].to_list() == [0.0]


def test_ribbons_touch_their_experts_without_overlap() -> None:
    moved = flows.flows_now([snapshot(T0, layer([9, 1, 1], [4, 4, 3], [(0, 1, 3), (0, 2, 1)]))], 0)
    assert moved.rows() == [(0, 1, 12.0), (0, 2, 4.0)]
    ribbons = flows.flow_ribbons(moved)
    ends = ribbons.filter((pl.col("kind") == "ribbon") & (pl.col("x") == 1.0)).sort("y")
    assert ends["flow"].to_list() == ["E0 → E1", "E0 → E2"]
    assert ends["y2"][0] <= ends["y"][1]
    assert ribbons.filter(pl.col("kind") == "giver")["label"].to_list() == ["E0 −16"]


def test_labels_of_small_flows_keep_their_distance() -> None:
    flow = [(0, taker, 1 if taker < 12 else 500) for taker in range(1, 15)]
    ribbons = flows.flow_ribbons(flows.flows_now([snapshot(T0, layer([900] * 15, [900] * 15, flow))], 0))
    at = ribbons.filter(pl.col("kind") == "taker").sort("at")["at"]
    assert at.diff().drop_nulls().min() >= 0.069  # type: ignore[operator]
    assert 0 <= at.min() <= at.max() <= 1  # type: ignore[operator]


def test_no_flow_says_so() -> None:
    ribbons = flows.flow_ribbons(flows.flows_now([], 0))
    assert ribbons["kind"].to_list() == ["note"]


def test_experts_that_spoke() -> None:
    parts = [
        Explanation(item_id="a", layer=0, experts=[3, 1], gates=[0.8, 0.2]),
        Explanation(item_id="b", layer=0, experts=[3, 2], gates=[0.6, 0.4], redirected_from=[1], redirected_to=[2]),
    ]
    uses = frames.expert_uses(parts)
    assert uses.row(0, named=True) == {"layer": 0, "expert": 3, "items": 2, "gate": pytest.approx(0.7), "redirected": 0}
    assert uses.filter(pl.col("expert") == 2)["redirected"].to_list() == [1]
