"""Pictures of `recsys bench router`: what each policy keeps, how it takes a burst, and who gives to whom in one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from recsys.bench.routing import RoutingBench, Row
from router.shapes import RoutingPlan

# (policy, label, colour, line style); the optimum under ours, so that a gap would show.
SHOWN = (
    ("optimum", "exact optimum (LP)", "#111111", "-"),
    ("price", "price (ours)", "#d1495b", "--"),
    ("sinkhorn_best", "Sinkhorn ×20, best temperature + repair", "#66a182", "-"),
    ("loss_free_best", "loss-free, best gain + repair", "#8d6a9f", "-"),
    ("evict_rebid", "evict and bid again, no prices", "#edae49", "-"),
    ("expanded_drop", "expanded drop", "#00798c", ":"),
    ("drop", "drop by score", "#5c6b73", ":"),
    ("confidence_reroute", "reroute, most confident first", "#3d5a80", "-."),
    ("arrival_reroute", "reroute in order of arrival", "#98c1d9", "-."),
)
OVER_TIME = (
    ("topk", "top-k", "#999999", "-"),
    ("loss_free", "loss-free, fixed gain", "#c3b1e1", "-"),
    ("loss_free_best", "loss-free, best gain", "#8d6a9f", "-"),
    ("drift_plus_penalty", "drift plus penalty", "#00798c", "-"),
    ("evict_rebid", "evict and bid again, no prices", "#edae49", "-"),
    ("price", "price (ours)", "#d1495b", "-"),
)
NO_LIMIT = ("topk", "loss_free", "drift_plus_penalty")  # score kept compares only under the same limits
SAME_AS_TOPK = ("evict_rebid",)  # before repair
MOMENTS = ("calm", "burst, first batch", "topic moved, first batch")


def plot_score_kept(rows: Sequence[Row], out: Path, *, gates: str = "generated") -> None:
    """Score kept against the capacity factor: a column for each number of experts, a row for each moment."""
    rows = [row for row in rows if row["gates"] == gates]
    sizes = sorted({int(row["experts"]) for row in rows})
    figure, axes = _figure(len(MOMENTS), len(sizes), width=3.8 if len(sizes) > 1 else 6.0, height=2.7)
    for i, moment in enumerate(MOMENTS):
        for j, experts in enumerate(sizes):
            axis = axes[i][j]
            for policy, label, colour, style in SHOWN:
                points = _mean_by(
                    [r for r in rows if (r["moment"], r["experts"], r["policy"]) == (moment, experts, policy)],
                    "capacity_factor",
                    "score_kept",
                )
                wide = 3.2 if policy == "optimum" else 1.8
                axis.plot(*points, style, color=colour, label=label, linewidth=wide, marker="o", markersize=3)
            axis.set_title(f"{experts} experts, {moment}", fontsize=10)
            axis.set_xticks(sorted({float(row["capacity_factor"]) for row in rows}))
            if j == 0:
                axis.set_ylabel("score kept, % of top-k")
            if i == len(MOMENTS) - 1:
                axis.set_xlabel("capacity factor")
    _finish(figure, axes, out, "Gate score kept under hard capacities", columns=3 if len(sizes) > 1 else 2)


def plot_stream(rows: Sequence[Row], options: RoutingBench, out: Path, *, title: str) -> None:
    """Imbalance before repair, and score kept under the capacities, batch by batch."""
    figure, axes = _figure(2, 1, width=9.0, height=2.9)
    panels = (
        ("max_over_mean_before", "max / mean load before repair", 1.0),
        ("score_kept", "score kept, % of top-k", 100.0),
    )
    for (axis,), (column, label, scale) in zip(axes, panels, strict=True):
        for policy, name, colour, style in OVER_TIME:
            if policy in (SAME_AS_TOPK if column != "score_kept" else NO_LIMIT):
                continue
            mine = [row for row in rows if row["policy"] == policy]
            kept = [scale * float(row[column]) for row in mine]
            axis.plot([row["batch"] for row in mine], kept, style, color=colour, label=name, linewidth=1.8)
        for at, text in ((options.calm, "burst begins"), (options.calm + options.burst, "hot topic moves")):
            axis.axvline(at - 0.5, color="#bbbbbb", linewidth=1, zorder=0)
            axis.annotate(
                text, (at - 0.4, 0.97), xycoords=("data", "axes fraction"), fontsize=8, color="#666666", va="top"
            )
        axis.set_ylabel(label)
    axes[1][0].set_xlabel("batch")
    _finish(figure, axes, out, title, columns=3)


def plot_flows(plan: RoutingPlan, out: Path, *, title: str) -> None:
    """Redirected slots of one batch: from the expert a token wished for (left) to the one it got (right)."""
    experts = len(plan.load_E)
    pairs_N = (plan.wishes_TK * experts + plan.expert_ids_TK)[plan.redirected_TK]
    flow_EE = torch.bincount(pairs_N, minlength=experts * experts).view(experts, experts)
    figure, ((axis,),) = _figure(1, 1, width=8.6, height=6.4)
    order = plan.demand_E.argsort(descending=True).tolist()
    gap = 0.018 * float(plan.demand_E.sum())
    left, right = _stacked(plan.demand_E.tolist(), order, gap), _stacked(plan.load_E.tolist(), order, gap)
    colours = _colours(experts)
    out_at, in_at = dict(left), dict(right)
    for source in order:
        stays = int(plan.demand_E[source] - flow_EE[source].sum())
        flows = [(source, stays, 0.10)] + [(target, int(flow_EE[source, target]), 0.5) for target in order]
        for target, slots, alpha in flows:
            if slots:
                _ribbon(axis, out_at[source], in_at[target], slots, colours[source], alpha)
                out_at[source] -= slots
                in_at[target] -= slots
    for x, tops, load_E, side in ((0.0, left, plan.demand_E, "right"), (1.0, right, plan.load_E, "left")):
        for expert, top in tops.items():
            slots = int(load_E[expert])
            start = x - 0.02 if x == 0 else x
            axis.broken_barh([(start, 0.02)], (top - slots, slots), color=colours[expert])
            if slots:
                axis.text(
                    x - 0.03 if x == 0 else x + 0.03,
                    top - slots / 2,
                    f"expert {expert}   {slots}" if x else f"{slots}   expert {expert}",
                    ha=side,
                    va="center",
                    fontsize=8,
                )
    axis.text(0, 1.02, "wished for", transform=axis.get_xaxis_transform(), ha="center", fontsize=10)
    axis.text(1, 1.02, "served", transform=axis.get_xaxis_transform(), ha="center", fontsize=10)
    axis.set_xlim(-0.22, 1.22)
    axis.axis("off")
    figure.suptitle(title, fontsize=11)
    _save(figure, out)


def _ribbon(axis: Any, y_from: float, y_to: float, slots: int, colour: Any, alpha: float) -> None:
    x = torch.linspace(0, 1, 40)
    ease = 3 * x**2 - 2 * x**3
    top = y_from + (y_to - y_from) * ease
    axis.fill_between(x.numpy(), (top - slots).numpy(), top.numpy(), color=colour, alpha=alpha, linewidth=0)


def _stacked(load: Sequence[int], order: Sequence[int], gap: float) -> dict[int, float]:
    """Upper edge of each expert's bar, the first of the order on top, centred on 0."""
    height = sum(load) + gap * (len(load) - 1)
    edges, at = {}, height / 2
    for expert in order:
        edges[expert] = at
        at -= load[expert] + gap
    return edges


def _mean_by(rows: Sequence[Row], by: str, what: str) -> tuple[list[float], list[float]]:
    keys = sorted({float(row[by]) for row in rows})
    groups = [[float(row[what]) for row in rows if row[by] == key] for key in keys]
    return keys, [100 * sum(group) / len(group) for group in groups]


def _colours(count: int) -> list[Any]:
    import matplotlib

    wheel = matplotlib.colormaps["turbo"]
    return [wheel(0.05 + 0.9 * n / max(1, count - 1)) for n in range(count)]


def _figure(rows: int, columns: int, *, width: float, height: float) -> tuple[Any, Any]:
    """A figure without a window, and its axes as rows of columns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#eeeeee")
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
    return figure, axes


def _finish(figure: Any, axes: Any, out: Path, title: str, *, columns: int) -> None:
    lines = {line.get_label(): line for axis in axes.flat for line in axis.get_lines() if line.get_label()[0] != "_"}
    figure.legend(
        list(lines.values()), list(lines), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    figure.suptitle(title, fontsize=12)
    _save(figure, out)


def _save(figure: Any, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
