"""Load snapshots -> polars frames, one function per picture; pure.

Loads are shown relative to the mean: 1.0 is what one expert would get if all wishes were spread evenly.
Served slots and capacities are divided by the same mean, so that all three can be compared.
Several engines in one list are added up. Time runs in seconds before the newest snapshot, so that the
axes of the charts never change; bins are aligned to the clock, so that a finished bin never changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import polars as pl

from dashboard.answers import Explanation, LayerLoad, LoadSnapshot
from dashboard.calls import CallCounts, turned_away
from dashboard.flows import PRESENT_MS, flow_ribbons, flows_now

BIN_MS = 2_000
SPAN_MS = 120_000
IN_SIGHT = 2.5  # capacities above this multiple of the busiest load are not drawn: they would flatten all else

LOAD_SCHEMA = {
    "engine": pl.String,
    "ts": pl.Int64,
    "interval_ms": pl.Float64,
    "expert": pl.Int32,
    "demand": pl.Int64,
    "served": pl.Int64,
    "moved_in": pl.Int64,
    "moved_out": pl.Int64,
    "capacity": pl.Float64,
    "price": pl.Float64,
}
QUERY_SCHEMA = {
    "engine": pl.String,
    "ts": pl.Int64,
    "interval_ms": pl.Float64,
    "step": pl.String,
    "pressure": pl.Float64,
    "queue": pl.Int64,
    "answered": pl.Int64,
    "refused": pl.Int64,
    "expired": pl.Int64,
    "failed": pl.Int64,
    "p50": pl.Float64,
    "p95": pl.Float64,
    "p99": pl.Float64,
    "slots": pl.Int64,
    "score_kept": pl.Float64,
    "certified_gap": pl.Float64,
}
STEPS = ("calm", "redirect", "economise", "shed")
ANSWERED_AT = {"calm": ("calm",), "redirected": ("redirect",), "economised": ("economise", "shed")}
OUTCOMES = (*ANSWERED_AT, "shed_engines", "shed_api", "late_or_failed")


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """Every frame of the live page, for one choice of engines and layer."""

    now: pl.DataFrame
    over_time: pl.DataFrame
    queries: pl.DataFrame
    ribbons: pl.DataFrame


def picture(snapshots: Sequence[LoadSnapshot], layer: int, calls: Sequence[CallCounts] = ()) -> Picture:
    """All frames of the live page; the snapshots hold at least one of a model with that layer.

    Without `calls`, the counters of the API processes, only refusals by engines are known.
    """
    loads = expert_loads(snapshots, layer)
    return Picture(
        now=load_now(loads),
        over_time=load_over_time(loads),
        queries=queries_over_time(queries(snapshots, layer), calls),
        ribbons=flow_ribbons(flows_now(snapshots, layer)),
    )


def expert_loads(snapshots: Sequence[LoadSnapshot], layer: int) -> pl.DataFrame:
    """One row per snapshot and expert of one MoE layer, in expert slots (LOAD_SCHEMA)."""
    some = [(s, load) for s in snapshots if (load := s.layer(layer)) is not None]
    experts = [len(load.demand) for _, load in some]

    def each(value: Callable[[LoadSnapshot], object]) -> list[object]:
        return [v for (s, _), n in zip(some, experts, strict=True) for v in repeat(value(s), n)]

    def flat(lists: Callable[[LayerLoad], Sequence[float]]) -> list[float]:
        return list(chain.from_iterable(lists(load) for _, load in some))

    # Flat columns cost a third of exploding a frame of lists.
    return pl.DataFrame(
        {
            "engine": each(lambda s: s.engine),
            "ts": each(lambda s: s.ts),
            "interval_ms": each(lambda s: s.interval_ms),
            "expert": list(chain.from_iterable(map(range, experts))),
            "demand": flat(lambda load: load.demand),
            "served": flat(lambda load: load.served),
            "moved_in": flat(lambda load: load.redirected_in),
            "moved_out": flat(lambda load: load.redirected_out),
            "capacity": flat(lambda load: load.capacity),
            "price": flat(lambda load: load.price),
        },
        schema=LOAD_SCHEMA,
    )


def queries(snapshots: Sequence[LoadSnapshot], layer: int) -> pl.DataFrame:
    """One row per snapshot: queries by outcome, latency, pressure, and the quality kept in one layer (QUERY_SCHEMA)."""
    rows = []
    for s in snapshots:
        load = s.layer(layer)
        rows.append(
            (s.engine, s.ts, s.interval_ms, s.step, s.pressure, s.queue, s.answered, s.refused, s.expired, s.failed)
            + (s.latency_ms_p50, s.latency_ms_p95, s.latency_ms_p99)
            + ((sum(load.served), load.score_kept, load.certified_gap) if load else (0, 1.0, 0.0))
        )
    return pl.DataFrame(rows, schema=QUERY_SCHEMA, orient="row")


def load_over_time(loads: pl.DataFrame) -> pl.DataFrame:
    """Relative load per expert and time bin: the two heat maps.

    Columns: start, end (s before now), expert, demand, served, capacity (× mean), price (score units), moved_out (%).
    """
    mean = (pl.col("demand").sum() / pl.col("demand").count()).over("start")
    return (
        loads.pipe(_binned)
        .group_by("start", "expert")
        .agg(
            pl.col("demand", "served", "capacity", "moved_out").sum(),
            pl.col("price").mean(),
        )
        .filter(pl.col("demand").sum().over("start") > 0)
        .select(
            "start",
            (pl.col("start") + BIN_MS / 1_000).alias("end"),
            "expert",
            (pl.col("demand") / mean).alias("demand"),
            (pl.col("served") / mean).alias("served"),
            (pl.col("capacity") / mean).alias("capacity"),
            "price",
            (100 * pl.col("moved_out") / pl.col("demand").clip(lower_bound=1)).alias("moved_out"),
        )
        .sort("start", "expert")
    )


def balance_over_time(over_time: pl.DataFrame) -> pl.DataFrame:
    """The busiest expert per time bin, from `load_over_time`: start, wanted, worked (both × their own mean)."""
    return (
        over_time.group_by("start")
        .agg(
            (pl.col("demand").max() / pl.col("demand").mean()).alias("wanted"),
            (pl.col("served").max() / pl.col("served").mean()).alias("worked"),
            pl.col("capacity").mean().alias("capacity"),
        )
        .with_columns(_in_sight("capacity", "wanted"))
        .sort("start")
    )


def load_now(loads: pl.DataFrame) -> pl.DataFrame:
    """Load per expert over the last two seconds: the bars.

    Columns: expert, demand, served, capacity, price, moved_in, moved_out (slots/s) and
    demand_x, served_x, capacity_x (× mean).
    """
    present = loads.filter(pl.col("ts") > pl.col("ts").max() - PRESENT_MS)
    seconds = _seconds(present)
    slots = ["demand", "served", "capacity", "moved_in", "moved_out"]
    mean = pl.col("demand").mean()
    return (
        present.group_by("expert")
        .agg(*(pl.col(name).sum() / seconds for name in slots), pl.col("price").mean())
        .sort("expert")
        .with_columns((pl.col(name) / mean).fill_nan(0.0).alias(f"{name}_x") for name in slots[:3])
        .with_columns(_in_sight("capacity_x", "demand_x"))
    )


def queries_over_time(rows: pl.DataFrame, calls: Sequence[CallCounts] = ()) -> pl.DataFrame:
    """One row per time bin: queries/s by outcome, latency (ms), pressure, queue, ladder step, quality (%).

    Percentiles cannot be averaged: p95 and p99 are the worst of the bin, p50 is weighted by answers. `shed_api` is what
    the API refused alone; its counters come once a second, so that the newest bin takes the rate of the one before.
    """
    weight = pl.col("answered") + 1e-9
    slots = pl.col("slots") + 1e-9
    seconds = pl.col("interval_ms").sum() / pl.col("engine").n_unique() / 1_000
    newest_ms = int(rows["ts"].max() or 0)  # type: ignore[arg-type]
    return (
        rows.pipe(_binned)
        .group_by("start")
        .agg(
            *((pl.col(name).sum() / seconds).alias(name) for name in ("answered", "refused", "expired", "failed")),
            *(
                (pl.col("answered").filter(pl.col("step").is_in(steps)).sum() / seconds).alias(name)
                for name, steps in ANSWERED_AT.items()
            ),
            ((pl.col("p50") * weight).sum() / weight.sum()).alias("p50"),
            pl.col("p95", "p99").max(),
            pl.col("pressure").max(),
            pl.col("queue").max(),
            pl.col("step").replace_strict({name: i for i, name in enumerate(STEPS)}, default=0).max().alias("rung"),
            (100 * (pl.col("score_kept") * slots).sum() / slots.sum()).alias("score_kept"),
            (100 * (pl.col("certified_gap") * slots).sum() / slots.sum()).alias("certified_gap"),
        )
        .with_columns(
            (pl.col("start") + BIN_MS / 1_000).alias("end"),
            pl.col("rung").replace_strict(dict(enumerate(STEPS)), return_dtype=pl.String).alias("step"),
            pl.col("refused").alias("shed_engines"),
            (pl.col("expired") + pl.col("failed")).alias("late_or_failed"),
        )
        .join(turned_away(calls, newest_ms=newest_ms, bin_ms=BIN_MS), on="start", how="left")
        .sort("start")
        .with_columns(pl.col("shed_api").forward_fill(limit=2).fill_null(0.0))
    )


def latency_lines(over_time: pl.DataFrame) -> pl.DataFrame:
    """`queries_over_time` as one row per bin and percentile: start, which, ms."""
    answered = over_time.filter(pl.col("answered") > 0)
    return answered.unpivot(["p50", "p95", "p99"], index="start", variable_name="which", value_name="ms")


def balance_lines(balance: pl.DataFrame) -> pl.DataFrame:
    """`balance_over_time` as one row per bin and line: start, which (capacity, wanted, worked), times (× mean)."""
    return balance.unpivot(["capacity", "wanted", "worked"], index="start", variable_name="which", value_name="times")


def outcome_areas(over_time: pl.DataFrame) -> pl.DataFrame:
    """`queries_over_time` as one row per bin and outcome: start, outcome and its place in `OUTCOMES`, rate (/s)."""
    places = {name: place for place, name in enumerate(OUTCOMES)}
    return over_time.unpivot(OUTCOMES, index="start", variable_name="outcome", value_name="rate").with_columns(
        pl.col("outcome").replace_strict(places, return_dtype=pl.Int8).alias("place")
    )


def expert_uses(explain: Sequence[Explanation]) -> pl.DataFrame:
    """Experts that scored the items of one answer: layer, expert, items, gate (mean weight), redirected (items)."""
    rows = [
        (e.layer, expert, gate, expert in e.redirected_to)
        for e in explain
        for expert, gate in zip(e.experts, e.gates, strict=False)
    ]
    schema = {"layer": pl.Int32, "expert": pl.Int32, "gate": pl.Float64, "redirected": pl.Boolean}
    return (
        pl.DataFrame(rows, schema=schema, orient="row")
        .group_by("layer", "expert")
        .agg(pl.len().alias("items"), pl.col("gate").mean(), pl.col("redirected").sum())
        .sort("layer", "items", "expert", descending=[False, True, False])
    )


def _in_sight(capacity: str, load: str) -> pl.Expr:
    """The capacity where it matters: null where it is far above every load."""
    return pl.when(pl.col(capacity) <= IN_SIGHT * pl.col(load).max().clip(lower_bound=1.0)).then(pl.col(capacity))


def _binned(rows: pl.DataFrame) -> pl.DataFrame:
    """With `start`, the beginning of the row's time bin in seconds before the end of the newest bin."""
    bin_ = pl.col("ts") // BIN_MS
    start = (bin_ - bin_.max() - 1) * (BIN_MS / 1_000)
    return rows.with_columns(start.alias("start")).filter(pl.col("start") >= -SPAN_MS / 1_000)


def _seconds(rows: pl.DataFrame) -> float:
    """Seconds covered by snapshots: intervals of one engine follow each other, those of several overlap."""
    covered = rows.unique(["engine", "ts"]).group_by("engine").agg(pl.col("interval_ms").sum())["interval_ms"].max()
    return float(covered) / 1_000 if isinstance(covered, float) and covered > 0 else 1.0
