"""Picture of `recsys bench soak`: what became of the requests, their latency, and memory, with every kill marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys.bench.soak import SoakOptions, SoakRun

BINS = 120
COLOURS = {"engine": "#d1495b", "api worker": "#00798c", "redis": "#edae49"}


def plot_soak(run: SoakRun, options: SoakOptions, out: Path) -> None:
    """Vertical lines: a process was killed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = options.minutes * 60
    edges = np.linspace(0, seconds, BINS + 1)
    width_s, figure = edges[1], Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    rate_axis, late_axis, memory_axis = figure.subplots(3, 1, sharex=True)
    parts = {
        "by the model": [o.due_s for o in run.outcomes if o.status == 200 and not o.fallback],
        "popular items": [o.due_s for o in run.outcomes if o.status == 200 and o.fallback],
        "refused": [o.due_s for o in run.outcomes if o.status in (429, 503)],
        "broken": [o.due_s for o in run.outcomes if o.status not in (200, 429, 503)],
    }
    counts = [np.histogram(due, edges)[0] / width_s for due in parts.values()]
    rate_axis.stackplot(
        edges[:-1], counts, labels=list(parts), colors=["#7fb7a3", "#edcf8e", "#c9c9c9", "#b00020"], step="post"
    )
    rate_axis.set_ylabel("requests per second")
    rate_axis.set_ylim(0, 1.4 * max(1.0, float(np.sum(counts, axis=0).max())))  # room for the legend
    answered = [(o.due_s, o.latency_s * 1e3) for o in run.outcomes if o.status]
    bins = [[ms for at, ms in answered if a <= at < a + width_s] for a in edges[:-1]]
    for percent, style in ((50, ":"), (99, "-")):
        line = [np.percentile(one, percent) if one else np.nan for one in bins]
        late_axis.plot(edges[:-1], line, color="#555555", linestyle=style, label=f"p{percent}")
    late_axis.axhline(options.deadline_ms, color="#b00020", linewidth=0.8, label="deadline")
    late_axis.set_yscale("log")
    late_axis.set_ylabel("ms to the answer or refusal")
    for name in sorted({name for _, used in run.memory for name in used}):
        memory_axis.plot([at for at, _ in run.memory], [used.get(name, 0) for _, used in run.memory], label=name)
    memory_axis.set_ylabel("resident memory, MB")
    memory_axis.set_xlabel("s")
    named: set[str] = set()
    for at_s, whom in run.kills:
        for axis in (rate_axis, late_axis, memory_axis):
            label = f"{whom} killed" if axis is rate_axis and whom not in named else None
            axis.axvline(at_s, color=COLOURS[whom], linewidth=0.8, label=label)
        named.add(whom)
    for axis in (rate_axis, late_axis, memory_axis):
        axis.legend(frameon=False, fontsize=7, loc="upper left", ncols=3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
