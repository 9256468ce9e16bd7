"""What experts are for: which categories of candidates, and users after which category, each expert is given.

`python -m recsys.training.specialisation <model> <data set>` ranks held-out events as they would be served, and writes
a table and a picture.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from recsys.training.evaluate import KeptOut, kept_out
from recsys.training.scoring import retrieve
from router.router import Router

RECENT = 20  # newest events that say what a user is after
REQUESTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Specialisation:
    """Gate weight that went to each expert, (layers, experts, categories).

    Attributes:
        by_item_LEC: by category of the candidate; an item of several counts a part for each.
        by_user_LEC: by the category that its user had most of lately.
        categories: names of the columns.
    """

    by_item_LEC: Tensor
    by_user_LEC: Tensor
    categories: tuple[str, ...]


@torch.inference_mode()
def specialisation(kept: KeptOut, *, requests: int = 1_024, candidates: int = 200) -> Specialisation:
    """Rank the first `requests` held-out events with plain top-k routing, and sum up gates."""
    model, features = kept.model, kept.catalogue.features
    table_ID = kept.catalogue.table(model)
    router = Router.unconstrained(model.config.moe_layers, model.config.experts)
    shape = (model.config.moe_layers, model.config.experts, features.categories_IC.shape[1])
    by_item_LEC, by_user_LEC = torch.zeros(shape), torch.zeros(shape)
    for first in range(0, min(requests, len(kept.cases)), REQUESTS_AT_ONCE):
        part = slice(first, min(first + REQUESTS_AT_ONCE, requests))
        encoded, scores_BI = retrieve(model, table_ID, kept.cases, part)
        candidates_BN = scores_BI.topk(min(candidates, scores_BI.shape[1] - 1)).indices
        recent = kept.cases.histories(part, newest=min(RECENT, model.config.history))[0]
        had_BC = torch.stack([features.categories_IC[torch.from_numpy(row)].sum(0) for row in recent])
        after_BC = torch.nn.functional.one_hot(had_BC.argmax(1), shape[2]).float()
        item_TC = features.categories_IC[candidates_BN.flatten()]
        user_TC = after_BC.repeat_interleave(candidates_BN.shape[1], 0)
        for layer, plan in enumerate(model.rank(encoded, candidates_BN, table_ID, router).plans):
            weight_TE = torch.zeros(len(item_TC), shape[1]).scatter_add_(1, plan.expert_ids_TK, plan.gates_TK.float())
            by_item_LEC[layer] += weight_TE.T @ item_TC
            by_user_LEC[layer] += weight_TE.T @ user_TC
    return Specialisation(by_item_LEC, by_user_LEC, model.vocabulary.categories)


def lift(weight_EC: Tensor) -> Tensor:
    """How many times more of a category an expert is given than by chance: 1 = as often as everybody."""
    expected_EC = weight_EC.sum(1, keepdim=True) * weight_EC.sum(0, keepdim=True) / weight_EC.sum().clamp(min=1e-9)
    return weight_EC / expected_EC.clamp(min=1e-9)


def plot(found: Specialisation, out: Path) -> None:
    """Lift of the commonest categories: a row of pictures per block, candidates left, users right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = found.by_item_LEC.shape[0]
    figure = Figure(figsize=(11, 1.0 + 2.6 * layers), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(layers, 2, squeeze=False)
    for layer in range(layers):
        for axis, weight_EC, what in (
            (axes[layer][0], found.by_item_LEC[layer], "category of the candidate"),
            (axes[layer][1], found.by_user_LEC[layer], "what the user had most of"),
        ):
            columns = _commonest(weight_EC)
            shown_EC = lift(weight_EC)[:, columns].clamp(min=1 / 8).log2().numpy()
            image = axis.imshow(shown_EC, cmap="RdBu_r", vmin=-2, vmax=2, aspect="auto")
            axis.set_xticks(range(len(columns)), [found.categories[c] for c in columns], rotation=60, ha="right")
            axis.tick_params(labelsize=7)
            axis.set_ylabel(f"expert, block {layer + 1}")
            axis.set_title(what, fontsize=9)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, ticks=[-2, -1, 0, 1, 2])
    bar.ax.set_yticklabels(["¼", "½", "1", "2", "4"])
    bar.set_label("times as often as by chance")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)


def write_csv(found: Specialisation, out: Path) -> None:
    """One row per block, expert, category and side."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["by", "block", "expert", "category", "share", "lift"])
        for by, weight_LEC in (("candidate", found.by_item_LEC), ("user", found.by_user_LEC)):
            for layer, weight_EC in enumerate(weight_LEC):
                share_EC, lift_EC = weight_EC / weight_EC.sum(), lift(weight_EC)
                for expert, category in np.ndindex(*weight_EC.shape):
                    numbers = (f"{share_EC[expert, category]:.5f}", f"{lift_EC[expert, category]:.3f}")
                    writer.writerow([by, layer + 1, expert, found.categories[category], *numbers])


def _commonest(weight_EC: Tensor, most: int = 16) -> Sequence[int]:
    weight_C = weight_EC.sum(0)
    order: list[int] = weight_C.argsort(descending=True)[:most].tolist()
    return [column for column in order if weight_C[column] > 0]


def main(
    model: Annotated[Path, typer.Argument(help="Model folder")],
    dataset: Annotated[Path, typer.Argument(help="Data set folder that it was trained on")],
    out: Annotated[Path, typer.Option(help="csv file to write")] = Path("docs/benchmarks/experts.csv"),
    image: Annotated[Path, typer.Option(help="Picture to write")] = Path("docs/images/experts.png"),
) -> None:
    """Which categories each expert is given."""
    found = specialisation(kept_out(model, dataset))
    write_csv(found, out)
    plot(found, image)


if __name__ == "__main__":
    typer.run(main)
