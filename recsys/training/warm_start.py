"""Item vectors to begin training with: items that are had close to each other start close to each other.

Positive pointwise mutual information of co-occurrence, factorised (Levy, Goldberg and Dagan, TACL 2015): one pass
over the data gives the item table what many epochs of gradient steps would otherwise spend their time on.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recsys.training.co_occurrence import co_occurrences
from recsys.training.examples import Sequences

_SCALE = 0.1  # standard deviation of the values; large enough to matter, small enough to be corrected
_SMOOTHING = 0.75  # exponent that keeps rare items from looking exclusive


def item_vectors(sequences: Sequences, rows: int, width: int, window: int) -> Tensor:
    """Vectors of the rows of the catalogue, (rows, width); row 0 and items without company are zero.

    Draws on torch's random state. `width` may exceed the number of rows; columns beyond it are zero.
    """
    vectors_ID = torch.zeros(rows, width)
    information_II = _mutual_information(sequences, rows, window)
    if information_II.values().numel() == 0:
        return vectors_ID
    rank = min(width, rows)
    left_IR, strength_R, _ = torch.svd_lowrank(information_II, q=rank, niter=4)
    vectors_ID[:, :rank] = left_IR * strength_R.sqrt()
    return vectors_ID * (_SCALE / vectors_ID.std().clamp(min=1e-12))


def _mutual_information(sequences: Sequences, rows: int, window: int) -> Tensor:
    """Sparse (rows, rows): log of how much more often two items meet than by chance, where it is more often."""
    firsts, seconds = co_occurrences(sequences, window)
    cells, counts = np.unique(firsts * rows + seconds, return_counts=True)
    share_I = np.bincount(firsts, minlength=rows) / max(1, len(firsts))
    context_I = share_I**_SMOOTHING / max(1e-12, (share_I**_SMOOTHING).sum())
    first, second = cells // rows, cells % rows
    information = np.log(counts / max(1, len(firsts)) / (share_I[first] * context_I[second]))
    above = information > 0
    places = torch.from_numpy(np.stack([first[above], second[above]]))
    values = torch.from_numpy(information[above].astype(np.float32))
    return torch.sparse_coo_tensor(places, values, (rows, rows), check_invariants=False).coalesce()
