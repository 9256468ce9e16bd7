"""AUC of each goal on held-out events: `python -m recsys.training.goals <data set> <model>...`.

- `click`: an event's item before items that the user has not had, by the click logit.
- `like`: the same for liked events, by the like logit; `love` likewise.
- `like_if_taken`: liked events before events that were not liked, by how much likelier a like is than a click: what
  nothing but the like goal knows; `love_if_taken` likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from recsys.model.config import GOALS
from recsys.training.evaluate import KeptOut, kept_out
from recsys.training.examples import pad
from recsys.training.scoring import exclude

NEGATIVES = 99
AT_ONCE = 128


def auc(positive: Tensor, negative: Tensor) -> float:
    """Share of pairs in which the positive scores higher, ties counting half; NaN without pairs."""
    if not len(positive) or not len(negative):
        return float("nan")
    below = torch.searchsorted(negative.sort().values, positive.contiguous(), right=False).double()
    up_to = torch.searchsorted(negative.sort().values, positive.contiguous(), right=True).double()
    return float(((below + up_to) / 2 / len(negative)).mean())


@torch.inference_mode()
def goal_aucs(kept: KeptOut, *, most: int = 4_000) -> Mapping[str, float]:
    """AUC by goal on at most so many held-out events; only `click` for a model of one goal."""
    logits_CNG, real_CN, level_C = _scores(kept, most)
    target_CG, others = logits_CNG[:, 0], real_CN[:, 1:]
    found = {"click": _within(target_CG[:, 0], logits_CNG[:, 1:, 0], others)}
    for column, goal in enumerate(kept.model.config.goals[1:], 1):
        met_C = level_C >= GOALS.index(goal)
        if bool(met_C.any()):
            found[goal] = _within(target_CG[met_C, column], logits_CNG[met_C, 1:, column], others[met_C])
            surplus_C = target_CG[:, column] - target_CG[:, 0]
            found[f"{goal}_if_taken"] = auc(surplus_C[met_C], surplus_C[~met_C])
    return found


def _scores(kept: KeptOut, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of each event's item, then of items drawn evenly; which of them count; the level of the event."""
    model, random = kept.model, np.random.default_rng(0)
    table_ID = kept.catalogue.table(model)
    router = model.free_router()
    chosen = np.sort(random.permutation(len(kept.cases))[:most])
    logits, real = [], []
    for first in range(0, len(chosen), AT_ONCE):
        cases = chosen[first : first + AT_ONCE]
        items, kinds = kept.cases.histories(cases, newest=model.config.history)
        encoded = model.encode(pad(items), pad(kinds), table_ID)
        targets_B1 = torch.from_numpy(kept.cases.targets[cases])[:, None]
        others_BN = torch.from_numpy(random.integers(1, len(table_ID), (len(cases), NEGATIVES)))
        had_BI = torch.zeros(len(cases), len(table_ID))
        exclude(had_BI, kept.cases.histories(cases)[0])
        candidates_BN = torch.cat([targets_B1, others_BN], 1)
        real.append(had_BI.gather(1, candidates_BN).isfinite() & (candidates_BN != targets_B1))
        logits.append(model.rank(encoded, candidates_BN, table_ID, router).logits_BNG)
    level_C = torch.from_numpy(kept.cases.sequences.levels[kept.cases.ends[chosen]])
    return torch.cat(logits), torch.cat(real), level_C


def _within(target_C: Tensor, others_CN: Tensor, real_CN: Tensor) -> float:
    """Mean over events of the share of their own negatives that score lower, ties counting half."""
    ahead_CN = (target_C[:, None] > others_CN).double() + (target_C[:, None] == others_CN).double() / 2
    return float(((ahead_CN * real_CN).sum(1) / real_CN.sum(1).clamp(min=1)).mean())


def main(
    dataset: Annotated[Path, typer.Argument(help="Data set folder")],
    models: Annotated[list[Path], typer.Argument(help="Model folders trained on it")],
) -> None:
    """AUC of each goal, a row per model."""
    found = {model.name: goal_aucs(kept_out(model, dataset)) for model in models}
    columns = dict.fromkeys(name for row in found.values() for name in row)
    table = Table("model", *columns, title="AUC on held-out events")
    for model, row in found.items():
        table.add_row(model, *(f"{row[name]:.4f}" if name in row else "" for name in columns))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
