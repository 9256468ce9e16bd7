"""`recsys bench router` from end to end: run, tables on the terminal, csv files, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from recsys.bench.commands import add_to_csv
from recsys.bench.machine import machine
from recsys.bench.routing import RoutingBench, Row, burst_plan, over_time, run_bench
from recsys.bench.routing_plots import plot_flows, plot_score_kept, plot_stream
from recsys.bench.routing_time import SHAPES, measure_times
from router.gates import TopicGates

ROUNDING = 1e-6  # of sums of float32 scores
COLUMNS = (
    ("max_over_mean_before", "max/mean before", "{:.2f}"),
    ("max_over_mean_after", "after", "{:.2f}"),
    ("repaired_share", "repaired", "{:.1%}"),
    ("dropped_share", "dropped", "{:.1%}"),
    ("over_capacity_share", "over capacity", "{:.1%}"),
    ("score_kept", "score kept", "{:.2%}"),
    ("excess_regret", "excess regret", "{:.3%}"),
    ("certified_gap", "certified", "{:.3%}"),
)


def run_and_report(options: RoutingBench, out: Path, images: Path, *, console: Console, rounds: int) -> list[Row]:
    """Run everything; returns the rows of the policies."""
    shapes = SHAPES if options.tokens >= max(tokens for tokens, _ in SHAPES) else SHAPES[:2]
    experts = 16 if 16 in options.experts else options.experts[0]
    gates = TopicGates(experts, seed=options.seeds[0])
    with Progress(console=Console(stderr=True), transient=True) as progress:
        times = measure_times(shapes, rounds=rounds, progress=progress)
        rows = run_bench(options, progress)
        stream = over_time(options, gates, factor=1.1, seed=options.seeds[0])
    add_to_csv(rows, out, replace=True)
    add_to_csv(times, out.with_name(f"{out.stem}-time.csv"), replace=True)
    size = f"{options.tokens} tokens, {experts} experts"
    for source in {str(row["gates"]) for row in rows}:
        name = "router-score-kept.png" if source == "generated" else f"router-score-kept-{source}.png"
        plot_score_kept(rows, images / name, gates=source)
    plot_stream(stream, options, images / "router-stream.png", title=f"{size}, capacity factor 1.1")
    plan = burst_plan(options, gates, factor=1.0, seed=options.seeds[0])
    plot_flows(plan, images / "router-flows.png", title=f"First batch of a burst under price: {size}, factor 1.0")
    for table in policy_tables(rows):
        console.print(table)
    console.print(time_table(times))
    console.print(promise_table(rows, times))
    console.print("  ".join(f"{name} {value}" for name, value in machine().items()), style="dim", highlight=False)
    return rows


def policy_tables(rows: Sequence[Row]) -> list[Table]:
    """One table for each source, number of experts and moment, at the smallest capacity factor."""
    tables = []
    least = min(float(row["capacity_factor"]) for row in rows)
    rows = [row for row in rows if row["capacity_factor"] == least]
    for source, experts, moment in dict.fromkeys((r["gates"], r["experts"], r["moment"]) for r in rows):
        table = Table(title=f"{source} gates, {experts} experts, {moment}, capacity factor {least}")
        table.add_column("policy")
        for _, label, _ in COLUMNS:
            table.add_column(label, justify="right")
        for row in rows:
            if (row["gates"], row["experts"], row["moment"]) == (source, experts, moment):
                table.add_row(str(row["policy"]), *(_shown(float(row[name]), form) for name, _, form in COLUMNS))
        tables.append(table)
    return tables


def time_table(times: Sequence[Row]) -> Table:
    """Times of the policies, in the order of shapes."""
    table = Table(title="One batch on one thread, burst, capacity factor 1.0")
    for name in ("shape", "policy", "median us", "least us", "of the MoE layer", "of its routed experts"):
        table.add_column(name, justify="left" if name in ("shape", "policy") else "right")
    for row in times:
        table.add_row(
            f"{row['tokens']} x {row['experts']}",
            str(row["policy"]),
            f"{row['us']:.0f}",
            f"{row['us_least']:.0f}",
            f"{row['share_of_layer']:.1%}",
            f"{row['share_of_experts']:.1%}",
        )
    return table


def promise_table(rows: Sequence[Row], times: Sequence[Row]) -> Table:
    """What `price` promises, and the worst that was seen."""
    priced = [row for row in rows if row["policy"] == "price"]
    tight = [row for row in priced if row["capacity_factor"] == 1.0]
    first = [row for row in tight if row["moment"] == "burst, first batch"]
    shares = [float(row["share_of_layer"]) for row in times if row["policy"] == "price"]
    understated = max(float(row["excess_regret"]) - float(row["certified_gap"]) for row in priced)
    table = Table(title="price: promise and worst seen")
    for name in ("", "worst", "target", ""):
        table.add_column(name)
    for label, worst, limit, form in (
        ("slots over capacity", _worst(priced, "over_capacity_share"), 0.0, "{:.2%}"),
        ("slots dropped", _worst(priced, "dropped_share"), 0.0, "{:.2%}"),
        ("excess regret, capacity factor 1.0", _worst(tight, "excess_regret"), 0.001, "{:.4%}"),
        ("certified gap", _worst(priced, "certified_gap"), 0.002, "{:.4%}"),
        ("true gap above the certified one", max(0.0, understated - ROUNDING), 0.0, "{:.1e}"),
        ("max/mean before repair, first batch of a burst", _worst(first, "max_over_mean_before"), 1.1, "{:.3f}"),
        ("time over that of the MoE layer", max(shares), 0.1, "{:.1%}"),
    ):
        table.add_row(label, form.format(worst), form.format(limit), "met" if worst <= limit else "missed")
    return table


def _worst(rows: Sequence[Row], name: str) -> float:
    return max(float(row[name]) for row in rows)


def _shown(value: float, form: str) -> str:
    return "" if isnan(value) else form.format(value)
