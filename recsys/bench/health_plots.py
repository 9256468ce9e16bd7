"""Pictures of `recsys bench health`: p99, the expert's load and the score kept over time, a column per fault."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recsys.bench.health import HealthOptions, HealthTrial

BIN_S = 0.5
COLOURS = {"topk": "#999999", "drop": "#00798c", "price": "#d1495b"}
OTHER = "#5c6b73"
TITLES = {"slow": "one expert turns slow", "dead": "one expert dies"}


def plot_health(trials: Sequence[HealthTrial], options: HealthOptions, out: Path) -> None:
    """Grey band: the fault is injected. A gap in a line: nothing was answered by the model then."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(options.faults), 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(options.faults), sharex=True, sharey="row", squeeze=False)
    edges = np.arange(0, options.seconds + BIN_S, BIN_S)
    for column, fault in enumerate(options.faults):
        p99_axis, load_axis, kept_axis = (axes[row][column] for row in range(3))
        for trial in (t for t in trials if t.fault == fault):
            colour = COLOURS.get(trial.policy, OTHER)
            good = [o for o in trial.outcomes if o.status == 200 and not o.fallback]
            bins = [[o for o in good if a <= o.due_s < a + BIN_S] for a in edges[:-1]]
            p99 = [np.percentile([o.latency_s for o in one], 99) * 1e3 if one else np.nan for one in bins]
            kept = [np.mean([o.score_kept for o in one]) * 100 if one else np.nan for one in bins]
            p99_axis.plot(edges[:-1], p99, color=colour, label=trial.policy)
            load_axis.plot([at for at, _, _ in trial.load], [100 * s for _, s, _ in trial.load], color=colour)
            kept_axis.plot(edges[:-1], kept, color=colour)
        for axis in (p99_axis, load_axis, kept_axis):
            axis.axvspan(*options.spans["sick"], color="#eeeeee", zorder=0)
        p99_axis.axhline(options.deadline_ms, color="#cccccc", linestyle=":", zorder=0)
        p99_axis.set_yscale("log")
        p99_axis.set_title(TITLES[fault])
        kept_axis.set_xlabel("s")
    axes[0][0].set_ylabel("p99 of answers, ms")
    axes[1][0].set_ylabel("slots that the expert served, %")
    axes[2][0].set_ylabel("gate score kept, %")
    axes[1][0].set_ylim(bottom=0)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.text(0.99, 0.005, "grey: the fault is injected; dotted: deadline", ha="right", fontsize=7, color="#888888")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
