"""What the model has to beat: popularity, and items that go with what the user had."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recsys.training.co_occurrence import co_occurrences
from recsys.training.examples import Ints, Sequences, pad
from recsys.training.metrics import ndcg, target_ranks
from recsys.training.protocol import Cases
from recsys.training.scoring import CASES, exclude

NEIGHBOURS = 200  # kept per item
RECENT = 50  # newest events that speak for a neighbour
ITEMS_AT_ONCE = 512  # rows of the co-occurrence matrix alive at once
WINDOWS = (3, 10, 30)
DECAYS = (0.6, 0.8, 0.9, 0.95, 1.0)


class Baseline(Protocol):
    """Scores every row of the catalogue from histories, each oldest first."""

    def scores(self, histories: list[Ints]) -> Tensor:
        """scores_BI, larger is better."""
        ...


class Popularity:
    """Number of events of each item in training.

    Args:
        sequences: the training events.
        rows: rows of the catalogue, row 0 included.
    """

    def __init__(self, sequences: Sequences, rows: int) -> None:
        self._counts_I = torch.bincount(torch.from_numpy(sequences.items), minlength=rows).float()

    def scores(self, histories: list[Ints]) -> Tensor:
        return self._counts_I.expand(len(histories), -1).clone()


class ItemToItem:
    """Items that the same users had within a few events: cosine of co-occurrence, newer events counting more.

    Args:
        sequences: the training events.
        rows: rows of the catalogue, row 0 included.
        window: two events of a user co-occur if at most this many steps apart.
        decay: weight of an event relative to the next newer one.
    """

    def __init__(self, sequences: Sequences, rows: int, *, window: int, decay: float = 1.0) -> None:
        self.decay = decay
        self._rows = rows
        self._neighbours_IM, self._cosines_IM = _neighbours(sequences, rows, window)

    def scores(self, histories: list[Ints]) -> Tensor:
        recent_BL = pad([history[::-1][:RECENT] for history in histories])  # newest first
        age_L = self.decay ** torch.arange(recent_BL.shape[1])
        cosines_BLM = self._cosines_IM[recent_BL] * age_L[:, None]
        scores_BI = torch.zeros(len(histories), self._rows)
        return scores_BI.scatter_add_(1, self._neighbours_IM[recent_BL].flatten(1), cosines_BLM.flatten(1))


def tuned_item_to_item(train: Sequences, rows: int, validation: Cases) -> ItemToItem:
    """Item-to-item with the window and the decay that do best on validation, the help that the model gets too."""
    best, best_value, best_decay = None, -1.0, 1.0
    for window in WINDOWS:
        baseline = ItemToItem(train, rows, window=window)
        for decay in DECAYS:
            baseline.decay = decay
            value = ndcg(baseline_ranks(baseline, validation))
            if value > best_value:
                best, best_value, best_decay = baseline, value, decay
    assert best is not None
    best.decay = best_decay
    return best


def baseline_ranks(baseline: Baseline, cases: Cases) -> Tensor:
    """Rank of the target of each case among all items that the user has not had, 1 = best."""
    ranks = [torch.zeros(0, dtype=torch.int64)]
    for first in range(0, len(cases), CASES):
        part = slice(first, first + CASES)
        histories = cases.histories(part)[0]
        scores_BI = baseline.scores(histories)
        exclude(scores_BI, histories)
        ranks.append(target_ranks(scores_BI, torch.from_numpy(cases.targets[part])))
    return torch.cat(ranks)


def _neighbours(sequences: Sequences, rows: int, window: int) -> tuple[Tensor, Tensor]:
    """The `NEIGHBOURS` nearest items of every item and their cosines, (I, M) each; cosine 0 where there are fewer."""
    most = min(NEIGHBOURS, rows)
    neighbours_IM, cosines_IM = torch.zeros(rows, most, dtype=torch.int64), torch.zeros(rows, most)
    norm_I = torch.bincount(torch.from_numpy(sequences.items), minlength=rows).clamp(min=1).double().rsqrt()
    firsts, seconds = co_occurrences(sequences, window)
    bounds = np.searchsorted(firsts, np.arange(0, rows + ITEMS_AT_ONCE, ITEMS_AT_ONCE))
    for begin, end, start in zip(bounds[:-1], bounds[1:], range(0, rows, ITEMS_AT_ONCE), strict=True):
        cells = torch.from_numpy((firsts[begin:end] - start) * rows + seconds[begin:end])
        block = slice(start, min(start + ITEMS_AT_ONCE, rows))
        counts_JI = torch.bincount(cells, minlength=(block.stop - start) * rows).view(-1, rows)
        cosines_JI = counts_JI * norm_I[block, None] * norm_I
        cosines_JM, neighbours_IM[block] = cosines_JI.topk(most)
        cosines_IM[block] = cosines_JM.float()
    return neighbours_IM, cosines_IM
