"""Roofline of `recsys bench moe`: where each form stands below what the machine can do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recsys.bench.moe_forms import DROPLESS, GROUPED, LOOP, ONNX, PADDED, SORTED, STATIC

# (form, label, colour, marker)
SHOWN = (
    (STATIC, "static slots, price (ours)", "#d1495b", "o"),
    (DROPLESS, "dropless, top-k (ours)", "#edae49", "s"),
    (GROUPED, "sort + F.grouped_mm", "#00798c", "v"),
    (SORTED, "sort + mm", "#66a182", "^"),
    (PADDED, "padded bmm", "#8d6a9f", "D"),
    (LOOP, "expert loop", "#5c6b73", "x"),
    (ONNX, "onnxruntime MoE", "#3d5a80", "P"),
)
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


def plot_roofline(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """GFLOP/s against FLOP per byte that must move: a column for each type, a row for each number of threads."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if row["stream"] == "crowd"]
    dtypes, threads = sorted({r["dtype"] for r in rows}, reverse=True), sorted({r["threads"] for r in rows})
    size = (5.6 * len(dtypes), 3.6 * len(threads) + 0.6)
    figure, axes = pyplot.subplots(len(threads), len(dtypes), squeeze=False, figsize=size, sharex="col")
    for i, count in enumerate(threads):
        for j, dtype in enumerate(dtypes):
            axis, cell = axes[i][j], [r for r in rows if (r["threads"], r["dtype"]) == (count, dtype)]
            _ceilings(axis, cell)
            for form, label, colour, marker in SHOWN:
                mine = [r for r in cell if r["form"] == form]
                axis.scatter(
                    *([_intensity(r) for r in mine], [r["gflops"] for r in mine]),
                    **{"label": label, "color": colour, "marker": marker, "s": 26, "zorder": 3},
                )
            axis.set(xscale="log", yscale="log", title=f"{dtype}, threads: {count}")
            axis.grid(alpha=0.25, which="both", linewidth=0.5)
            if j == 0:
                axis.set_ylabel("GFLOP/s of useful work")
            if i == len(threads) - 1:
                axis.set_xlabel("useful FLOP per byte that must move")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle("MoE layer on a CPU, gate and routing included, half of the tokens on one topic", fontsize=11)
    figure.tight_layout(rect=(0, 0.07 if len(threads) > 1 else 0.16, 1, 1))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    pyplot.close(figure)


def _intensity(row: dict[str, Any]) -> float:
    width, hidden, experts = row["width"], row["hidden"], row["experts"]
    moved = (2.0 * row["tokens"] * width + 3.0 * experts * width * hidden) * ITEM_BYTES[row["dtype"]]
    return float(row["gflop"] * 1e9 / moved)


def _ceilings(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    low, high = min(map(_intensity, rows)) / 1.5, max(map(_intensity, rows)) * 1.5
    peak, mm, copy = (rows[0][name] for name in ("peak_gflops", "mm_gflops", "copy_gb_per_s"))
    turn = min(max(peak / copy, low), high)
    axis.plot([low, turn, high], [min(low * copy, peak), min(turn * copy, peak), peak], color="#111111", linewidth=1.2)
    axis.axhline(mm, color="#111111", linewidth=1.0, linestyle="--")
    axis.annotate("registers and memory", (high, peak), ha="right", va="bottom", fontsize=7)
    axis.annotate("torch.mm, 2048³", (high, mm), ha="right", va="bottom", fontsize=7)
