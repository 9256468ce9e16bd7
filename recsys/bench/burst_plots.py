"""Pictures of `recsys bench burst`: answers per second, latency and step over time, a column per crowd."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recsys.bench.burst import BIN_S, BurstOptions, Trial

COLOURS = {"topk-padded": "#d9a441", "topk": "#999999", "drop": "#5c6b73", "price": "#d1495b"}
OTHER = "#00798c"


def plot_burst(trials: Sequence[Trial], saturation: float, options: BurstOptions, out: Path) -> None:
    """Goodput over saturation above the p99 of what was answered; dashed: without the ladder."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(options.crowds), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(options.crowds), sharex=True, sharey="row", squeeze=False)
    edges = np.arange(0, options.seconds + BIN_S, BIN_S)
    for column, crowd in enumerate(options.crowds):
        goodput, latency = axes[0][column], axes[1][column]
        for trial in (t for t in trials if t.crowd == crowd and t.repeat == 0):
            good = [o for o in trial.outcomes if o.accepted]
            due = np.array([o.due_s for o in good])
            p99 = [
                np.percentile(inside, 99) * 1e3
                if (inside := [o.latency_s for o in good if a <= o.due_s < a + BIN_S])
                else np.nan
                for a in edges[:-1]
            ]
            style = {"color": COLOURS.get(trial.policy, OTHER), "linestyle": "-" if trial.ladder == "on" else "--"}
            goodput.plot(
                edges[:-1],
                np.histogram(due, edges)[0] / BIN_S / saturation,
                label=f"{trial.policy}, ladder {trial.ladder}",
                **style,
            )
            latency.plot(edges[:-1], p99, **style)
        offered = [options.rate_at(t, saturation) / saturation for t in edges[:-1]]
        goodput.plot(edges[:-1], offered, color="#dddddd", drawstyle="steps-post", label="offered", zorder=0)
        goodput.set_ylim(0, 1.05 * options.rate_at(options.calm_s, saturation) / saturation)
        goodput.set_title(f"crowd: {crowd}")
        latency.axhline(options.deadline_ms, color="#dddddd", zorder=0)
        latency.set_xlabel("s")
    axes[0][0].set_ylabel("answers / saturation")
    axes[1][0].set_ylabel("p99 of answers, ms")
    if options.lane_us:
        figure.suptitle(f"one emulated device per expert, {options.lane_us:g} µs a slot", fontsize=9)
    axes[0][0].legend(frameon=False, fontsize=7)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
