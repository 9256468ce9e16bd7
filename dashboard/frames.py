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

BIN_MS = 2_000
SPAN_MS = 120_000
PRESENT_MS = 2_000
FLOWS_MAX = 30
IN_SIGHT = 2.5  # capacities above this multiple of the busiest load are not drawn: they would flatten all else
LABEL_GAP = 0.07  # least distance of two labels, as a share of the chart's height
RIBBON_STEPS = 12

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


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """Every frame of the live page, for one choice of engines and layer."""

    now: pl.DataFrame
    over_time: pl.DataFrame
    queries: pl.DataFrame
    ribbons: pl.DataFrame


def picture(snapshots: Sequence[LoadSnapshot], layer: int) -> Picture:
    """All frames of the live page; the snapshots hold at least one of a model with that layer."""
    loads = expert_loads(snapshots, layer)
    return Picture(
        now=load_now(loads),
        over_time=load_over_time(loads),
        queries=queries_over_time(queries(snapshots, layer)),
        ribbons=flow_ribbons(flows_now(snapshots, layer)),
    )


def expert_loads(snapshots: Sequence[LoadSnapshot], layer: int) -> pl.DataFrame:
    """One row per snapshot and expert of one MoE layer, in expert slots (LOAD_SCHEMA)."""
    some = [(s, load) for s in snapshots if (load := layer_of(s, layer)) is not None]
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
        load = layer_of(s, layer)
        rows.append(
            (s.engine, s.ts, s.interval_ms, s.step, s.pressure, s.queue, s.answered, s.refused, s.expired, s.failed)
            + (s.latency_ms_p50, s.latency_ms_p95, s.latency_ms_p99)
            + ((sum(load.served), load.score_kept, load.certified_gap) if load else (0, 1.0, 0.0))
        )
    return pl.DataFrame(rows, schema=QUERY_SCHEMA, orient="row")


def layer_of(snapshot: LoadSnapshot, layer: int) -> LayerLoad | None:
    """Load of one layer; None if the engine's model has fewer layers."""
    return snapshot.layers[layer] if layer < len(snapshot.layers) else None


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


def queries_over_time(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per time bin: queries/s by outcome, latency (ms), pressure, queue, ladder step, quality (%).

    Percentiles cannot be averaged: p95 and p99 are the worst of the bin, p50 is weighted by answers.
    """
    weight = pl.col("answered") + 1e-9
    slots = pl.col("slots") + 1e-9
    return (
        rows.pipe(_binned)
        .group_by("start")
        .agg(
            *(
                (pl.col(name).sum() / (pl.col("interval_ms").sum() / pl.col("engine").n_unique() / 1_000)).alias(name)
                for name in ("answered", "refused", "expired", "failed")
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
        )
        .sort("start")
    )


def latency_lines(over_time: pl.DataFrame) -> pl.DataFrame:
    """`queries_over_time` as one row per bin and percentile: start, which, ms."""
    answered = over_time.filter(pl.col("answered") > 0)
    return answered.unpivot(["p50", "p95", "p99"], index="start", variable_name="which", value_name="ms")


def balance_lines(balance: pl.DataFrame) -> pl.DataFrame:
    """`balance_over_time` as one row per bin and line: start, which (capacity, wanted, worked), times (× mean)."""
    return balance.unpivot(["capacity", "wanted", "worked"], index="start", variable_name="which", value_name="times")


def outcome_areas(over_time: pl.DataFrame) -> pl.DataFrame:
    """`queries_over_time` as one row per bin and outcome: start, outcome, rate (queries/s)."""
    names = ["answered", "refused", "expired", "failed"]
    return over_time.unpivot(names, index="start", variable_name="outcome", value_name="rate")


def flows_now(snapshots: Sequence[LoadSnapshot], layer: int) -> pl.DataFrame:
    """The largest redirections of the last two seconds: from, to, rate (slots/s), largest first."""
    newest = max((s.ts for s in snapshots), default=0)
    present = [s for s in snapshots if s.ts > newest - PRESENT_MS]
    flows = [flow for s in present if (load := layer_of(s, layer)) is not None for flow in load.flow]
    engines = len({s.engine for s in present}) or 1
    seconds = sum(s.interval_ms for s in present) / 1_000 / engines or 1.0
    return (
        pl.DataFrame(flows, schema={"from": pl.Int32, "to": pl.Int32, "slots": pl.Int64}, orient="row")
        .group_by("from", "to")
        .agg((pl.col("slots").sum() / seconds).alias("rate"))
        .filter(pl.col("rate") > 0)
        .sort(["rate", "from", "to"], descending=[True, False, False])
        .head(FLOWS_MAX)
    )


def flow_ribbons(flows: pl.DataFrame) -> pl.DataFrame:
    """Redirections as curved ribbons between givers (x=0) and takers (x=1); heights are shares of the whole.

    Rows of kind `ribbon` (flow, giver, rate, x, y, y2), `giver` and `taker` (at, label), `note` if nothing moves.
    """
    schema = {
        "kind": pl.String, "flow": pl.String, "x": pl.Float64, "y": pl.Float64, "y2": pl.Float64, "at": pl.Float64,
        "label": pl.String, "giver": pl.Int32, "rate": pl.Float64,
    }  # fmt: skip
    if flows.is_empty():
        note = {"kind": "note", "x": 0.5, "at": 0.5, "label": "No work is moved."}
        return pl.DataFrame([note], schema=schema)
    left, right = _stack(flows, "from"), _stack(flows, "to")
    ribbons = [
        {
            "kind": "ribbon", "flow": f"E{giver} → E{taker}", "giver": giver, "rate": rate, "x": x,
            "y": _curve(x, left[giver, taker][0], right[giver, taker][0]),
            "y2": _curve(x, left[giver, taker][1], right[giver, taker][1]),
        }
        for giver, taker, rate in flows.iter_rows()
        for x in (i / RIBBON_STEPS for i in range(RIBBON_STEPS + 1))
    ]  # fmt: skip
    labels = _labels(flows, "from", left) + _labels(flows, "to", right)
    return pl.DataFrame(ribbons + labels, schema=schema)


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


def _stack(flows: pl.DataFrame, side: str) -> dict[tuple[int, int], tuple[float, float]]:
    """Where each flow touches one side: experts in order, with gaps between them; 0 is the top, 1 the bottom."""
    order = flows.sort("from", "to") if side == "from" else flows.sort("to", "from")
    experts = order[side].n_unique()
    gap = 0.02 if experts > 1 else 0.0
    scale = (1 - gap * (experts - 1)) / float(order["rate"].sum())
    spans: dict[tuple[int, int], tuple[float, float]] = {}
    y, previous = 0.0, None
    for giver, taker, rate in order.iter_rows():
        expert = giver if side == "from" else taker
        if previous is not None and expert != previous:
            y += gap
        spans[giver, taker] = (y, y + rate * scale)
        y, previous = y + rate * scale, expert
    return spans


def _curve(x: float, begin: float, end: float) -> float:
    """Smooth step: a ribbon leaves and arrives horizontally."""
    return begin + (end - begin) * x * x * (3 - 2 * x)


def _labels(
    flows: pl.DataFrame, side: str, spans: dict[tuple[int, int], tuple[float, float]]
) -> list[dict[str, object]]:
    """One label per expert of a side, in the middle of its ribbons but never on top of another label."""
    rates = flows.group_by(side).agg(pl.col("rate").sum()).sort(side)
    index = 0 if side == "from" else 1
    middles = []
    for expert in rates[side]:
        own = [span for pair, span in spans.items() if pair[index] == expert]
        middles.append((min(a for a, _ in own) + max(b for _, b in own)) / 2)
    gap = min(LABEL_GAP, 1 / len(middles))
    at: list[float] = []
    for i, middle in enumerate(middles):
        room_below = 1 - gap * (len(middles) - 1 - i)
        at.append(min(max(middle, at[-1] + gap if at else 0.0), room_below))
    kind, sign, x = ("giver", "−", 0.0) if side == "from" else ("taker", "+", 1.0)
    return [
        {"kind": kind, "x": x, "at": y, "rate": rate, "label": f"E{expert} {sign}{_short(rate)}"}
        for y, (expert, rate) in zip(at, rates.iter_rows(), strict=True)
    ]


def _short(rate: float) -> str:
    """12,345 -> 12k: labels are for the eye, tooltips hold the figure."""
    return f"{rate / 1_000:.0f}k" if rate >= 10_000 else f"{rate / 1_000:.1f}k" if rate >= 1_000 else f"{rate:.0f}"
