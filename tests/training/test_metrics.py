from __future__ import annotations

import math

import pytest
import torch

from recsys.training.metrics import hit_rate, ndcg, target_ranks


def test_ranks_by_hand() -> None:
    scores_BI = torch.tensor(
        [[-torch.inf, 0.9, 0.1, 0.5], [-torch.inf, 0.2, 0.2, 0.2], [-torch.inf, 3.0, -torch.inf, 1.0]]
    )
    assert target_ranks(scores_BI, torch.tensor([3, 2, 2])).tolist() == [2, 2, 4]


def test_equal_scores_rank_as_a_stable_sort_has_them() -> None:
    scores_BI = torch.randint(0, 4, (50, 30)).float()
    order_BI = scores_BI.sort(dim=1, descending=True, stable=True).indices
    targets_B = torch.randint(0, 30, (50,))
    places_B = (order_BI == targets_B[:, None]).nonzero()[:, 1] + 1
    assert torch.equal(target_ranks(scores_BI, targets_B), places_B)


def test_hit_rate_and_ndcg_by_hand() -> None:
    ranks = torch.tensor([1, 3, 10, 11])
    assert hit_rate(ranks) == 0.75
    assert hit_rate(ranks, k=1) == 0.25
    assert ndcg(ranks) == pytest.approx((1 + 1 / 2 + 1 / math.log2(11) + 0) / 4)
    assert ndcg(ranks, k=1) == 0.25


def test_no_cases() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert (hit_rate(none), ndcg(none)) == (0.0, 0.0)
