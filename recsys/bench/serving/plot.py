"""Picture of `recsys bench serve`: answers per second of every server, and its p99 at one rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

PEER, OURS, CEILING = "#8d99a6", "#d1495b", "#c9d1d9"


def plot_serve(rows: Sequence[Mapping[str, float | str]], out: Path) -> None:
    """Two panels of horizontal bars; servers that were not measured are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = [row for row in rows if row["per_s_64"] != ""][::-1]
    names = [str(row["server"]) for row in measured]
    colours = [OURS if n.startswith("ours") else CEILING if n == "echo" else PEER for n in names]
    figure = Figure(figsize=(10.5, 0.42 * len(measured) + 1.4), layout="constrained")
    FigureCanvasAgg(figure)
    rate, latency = figure.subplots(1, 2, sharey=True)
    places = range(len(measured))
    for shift, connections, shade in ((0.2, 64, 1.0), (-0.2, 256, 0.55)):
        rate.barh(
            [place + shift for place in places],
            [float(row[f"per_s_{connections}"]) / 1e3 for row in measured],
            height=0.38,
            color=colours,
            alpha=shade,
            label=f"{connections} connections",
        )
    rate.set_yticks(list(places), names)
    rate.set_xlabel("answers per second, thousands (dark 64, light 256 connections)")
    latency.barh(list(places), [float(row["p99_ms_1000"]) for row in measured], height=0.6, color=colours)
    latency.set_xscale("log")
    latency.axvline(5, color="black", linewidth=0.8, linestyle=":")
    latency.set_xlabel("p99 at 1,000 requests/s, ms (dotted: 5 ms)")
    for axes in (rate, latency):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
