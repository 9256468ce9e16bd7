"""Learning curves of trained models, from the reports in their folders: `python -m recsys.training.curves`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from recsys.errors import ModelFolderError
from recsys.training.train import REPORT

COLOURS = ("#d1495b", "#00798c", "#edae49", "#5c6b73", "#66a182")


def read_curve(model_folder: Path) -> list[dict[str, Any]]:
    """One entry per epoch: `phase`, `epoch`, `loss`, and `validation_ndcg_10` where it was measured.

    Raises:
        ModelFolderError: there is no report.
    """
    path = model_folder / REPORT
    try:
        curve: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["curve"]
        return curve
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise ModelFolderError(f"{path}: has no learning curve: {error}") from error


def plot_curves(curves: dict[str, list[dict[str, Any]]], out: Path) -> None:
    """Training loss of retrieval, and validation NDCG@10 of both phases, the ranker's behind retrieval's, dotted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    loss, quality = figure.subplots(1, 2)
    for number, (name, curve) in enumerate(curves.items()):
        colour, behind = COLOURS[number % len(COLOURS)], 0
        for phase, style in (("retrieval", "-"), ("ranking", ":")):
            entries = [entry for entry in curve if entry["phase"] == phase]
            if phase == "retrieval":
                loss.plot([e["epoch"] for e in entries], [e["loss"] for e in entries], color=colour, label=name)
            checks = [(behind + e["epoch"], e["validation_ndcg_10"]) for e in entries if "validation_ndcg_10" in e]
            if checks:
                quality.plot(*zip(*checks, strict=True), style, color=colour, marker=".", label=f"{name}, {phase}")
            behind += len(entries)
    loss.set_ylabel("training loss of retrieval")
    quality.set_ylabel("validation NDCG@10")
    for axis in (loss, quality):
        axis.set_xlabel("epoch")
        axis.legend(frameon=False, fontsize=7)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)


def main(
    models: Annotated[list[Path], typer.Argument(help="Model folders")],
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("docs/images/learning_curves.png"),
) -> None:
    """Draw the learning curves of models."""
    plot_curves({model.name: read_curve(model) for model in models}, out)


if __name__ == "__main__":
    typer.run(main)
