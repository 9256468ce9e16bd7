"""What a GPU run leaves behind: one csv, one table in markdown with what was predicted and what came, one picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kernels.gpu import roofline
from kernels.gpu.shapes import Shape

COLUMNS = [
    *("shape", "tokens", "width", "hidden", "experts", "k", "routing", "form", "mode"),
    *("median_us", "p10_us", "p90_us", "predicted_us", "floor_us", "share_of_floor", "error", "gap", "status"),
    *("device", "torch", "triton"),
]
Row = dict[str, Any]


def write_predictions(path: Path, shapes: dict[str, Shape]) -> None:
    """Floors and predictions, before anything is measured."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["shape", *Shape._fields, "gflop", "least_mb", "floor_us", "predicted_us", "balanced_us"])
        for name, shape in shapes.items():
            counted = roofline.flops(shape) / 1e9, roofline.least_bytes(shape) / 1e6, roofline.floor_us(shape)
            predicted = roofline.predicted_us(shape), roofline.balanced_us(shape)
            table.writerow([name, *shape, *(f"{number:.2f}" for number in (*counted, *predicted))])


def _ours(rows: Sequence[Row], shape: str, routing: str) -> list[Row]:
    own = [row for row in rows if row["shape"] == shape and row["routing"] == routing and row["form"][:4] == "ours"]
    return [row for row in own if row.get("median_us")]


def markdown(rows: Sequence[Row], about: str) -> str:
    """Per shape and routing the fastest dropless form of ours, its prediction and floor, and every rival as a ratio."""
    rivals = list(dict.fromkeys(row["form"] for row in rows if not row["form"].startswith("ours")))
    lines = [f"{about}", "", "| shape | routing | floor us | predicted us | measured us | of floor | balanced us | "
             + " | ".join(f"{name}, times ours" for name in rivals) + " |"]  # fmt: skip
    lines.append("|" + "---|" * (7 + len(rivals)))
    for shape, routing in dict.fromkeys((row["shape"], row["routing"]) for row in rows):
        here = {row["form"]: row for row in rows if (row["shape"], row["routing"]) == (shape, routing)}
        own = _ours(rows, shape, routing)
        dropless = [row for row in own if row.get("predicted_us") and "balanced" not in row["form"]]
        best = min(dropless, key=lambda row: row["median_us"], default=None)
        balanced = next((row for row in own if "balanced" in row["form"]), None)
        cells = [shape, routing, f"{next(iter(here.values()))['floor_us']:.1f}"]
        if best is None:
            cells += ["", "not measured", "", ""]
        else:
            cells += [
                f"{best['predicted_us']:.0f}",
                f"{best['median_us']:.1f}",
                f"{100 * best['share_of_floor']:.0f} %",
            ]
            cells.append("" if balanced is None else f"{balanced['median_us']:.1f}")
        for name in rivals:
            rival = here.get(name, {})
            timed = best is not None and rival.get("median_us")
            cells.append(f"{rival['median_us'] / best['median_us']:.2f}" if best is not None and timed else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], path: Path, about: str) -> bool:
    """Achieved FLOP/s over FLOP per byte under the two ceilings. False where matplotlib is absent or nothing timed."""
    timed = [row for row in rows if row.get("median_us") and row["routing"] == "calm"]
    try:
        import matplotlib
    except ModuleNotFoundError:
        return False
    if not timed:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    intensity = [2.0**exponent for exponent in range(4, 13)]
    axes.plot(intensity, [min(roofline.PEAK_FLOPS, i * roofline.PEAK_BYTES) / 1e12 for i in intensity], color="black")
    for form in dict.fromkeys(row["form"] for row in timed):
        points = [row for row in timed if row["form"] == form]
        shapes = [Shape(*(int(row[name]) for name in Shape._fields)) for row in points]
        x = [roofline.flops(shape) / roofline.least_bytes(shape) for shape in shapes]
        y = [roofline.flops(shape) / row["median_us"] / 1e6 for shape, row in zip(shapes, points, strict=True)]
        axes.plot(x, y, "o" if form.startswith("ours") else "x", label=form)
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte that must move", ylabel="TFLOP/s", title=about)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True
