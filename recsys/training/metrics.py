"""Ranking metrics of one relevant item per case, from its rank among all items that were not excluded."""

from __future__ import annotations

import torch
from torch import Tensor


def target_ranks(scores_BI: Tensor, targets_B: Tensor) -> Tensor:
    """Rank of each target, 1 = best. Equal scores rank in the order of rows, as a stable sort would have them."""
    target_B1 = scores_BI.gather(1, targets_B[:, None])
    rows_I = torch.arange(scores_BI.shape[1], device=scores_BI.device)
    ahead_BI = (scores_BI > target_B1) | ((scores_BI == target_B1) & (rows_I < targets_B[:, None]))
    return 1 + ahead_BI.sum(1)


def hit_rate(ranks: Tensor, k: int = 10) -> float:
    """Share of cases whose item is among the first k."""
    return float((ranks <= k).double().mean()) if ranks.numel() else 0.0


def ndcg(ranks: Tensor, k: int | None = 10) -> float:
    """Mean of 1 / log2(1 + rank), 0 beyond rank k: NDCG@k where one item is relevant. None: no cut."""
    gain = gains(ranks) if k is None else torch.where(ranks <= k, gains(ranks), 0.0)
    return float(gain.mean()) if ranks.numel() else 0.0


def gains(ranks: Tensor) -> Tensor:
    """1 / log2(1 + rank) of each case."""
    return 1.0 / torch.log2(1.0 + ranks.double())
