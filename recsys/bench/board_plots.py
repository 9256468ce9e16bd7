"""Picture of `recsys bench board`: p99 of the pairs of turns, then redraws, the tab's rhythm and memory in overload."""

from __future__ import annotations

from pathlib import Path

from recsys.bench.board import BoardOptions, BoardRun

WITHOUT, WITH, TAB = "#999999", "#d1495b", "#00798c"
REFRESH_MAX_MS = 1_000.0


def plot_board(run: BoardRun, options: BoardOptions, out: Path) -> None:
    """Dotted: the bound on a redraw. Each pair of dots is one turn without viewers and one with them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    (pairs_axis, redraw_axis), (rhythm_axis, memory_axis) = figure.subplots(2, 2)
    turns = range(1, len(run.pairs) + 1)
    told = {"no board open": (WITHOUT, 0), f"{options.viewers} boards open": (WITH, 1)}
    for name, (colour, which) in told.items():
        pairs_axis.plot(turns, [pair[which] for pair in run.pairs], "o", color=colour, label=name)
    pairs_axis.set_title(f"Serving p99 at {options.rate:g} requests/s, ms", fontsize=9)
    pairs_axis.set_xticks(list(turns))
    pairs_axis.set_xlabel("pair of turns")

    minutes = [float(row["minute"]) + 1 for row in run.minutes]

    def of(name: str) -> list[float]:
        return [float(row[name]) for row in run.minutes]

    redraw_axis.plot(minutes, of("redraw_p95_ms"), color=WITH, marker=".", label="p95")
    redraw_axis.plot(minutes, of("redraw_p50_ms"), color=WITHOUT, marker=".", label="p50")
    redraw_axis.axhline(REFRESH_MAX_MS, color="#b00020", linewidth=0.8, linestyle=":")
    redraw_axis.set_yscale("log")
    redraw_axis.set_title(f"A redraw of the board at {options.overload_rate:g} requests/s, ms", fontsize=9)
    rhythm_axis.plot(minutes, of("tab_refresh_max_s"), color=TAB, marker=".", label="longest")
    rhythm_axis.plot(minutes, of("tab_refresh_p50_s"), color=WITHOUT, marker=".", label="median")
    rhythm_axis.set_title("Seconds between changes in the tab", fontsize=9)
    memory_axis.plot(minutes, of("board_mb"), color=WITH, marker=".", label="board, resident")
    memory_axis.plot(minutes, of("tab_mb"), color=TAB, marker=".", label="tab, JavaScript heap")
    memory_axis.set_title("Memory, MB", fontsize=9)
    for axis in (redraw_axis, rhythm_axis, memory_axis):
        axis.set_xlabel("minute of overload")
    for axis in (pairs_axis, rhythm_axis, memory_axis):
        axis.set_ylim(bottom=0)
    for axis in (pairs_axis, redraw_axis, rhythm_axis, memory_axis):
        axis.legend(frameon=False, fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
