"""Prices solved on the device: a true bound for any assignment, close to the exact optimum of the linear programme."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kernels import ops
from kernels.gpu.prices import solve
from kernels.gpu.route import route


def scores(tokens: int, experts: int, seed: int, skew: float) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return (torch.randn(tokens, experts, generator=draws) * 1.5 - skew * torch.arange(experts)).softmax(1)


def kept_within(scores_TE: Tensor, ids_TK: Tensor, capacity_E: Tensor) -> float:
    """Score of the slots that fit, earlier tokens first."""
    rank_TK, _ = ops.rank_slots(ids_TK, scores_TE.shape[1])
    safe_TK = ids_TK.clamp_min(0)
    fits_TK = (ids_TK >= 0) & (rank_TK < capacity_E[safe_TK])
    return float((scores_TE.double().gather(1, safe_TK) * fits_TK).sum())


@pytest.mark.parametrize(
    ("tokens", "experts", "k", "factor", "skew"),
    [
        (250, 8, 2, 1.0, 0.2),
        (193, 4, 1, 1.0, 0.5),
        (128, 12, 2, 1.1, 0.1),
        (128, 6, 3, 0.6, 0.2),
        (256, 4, 2, 3.0, 0.5),
    ],
)
def test_bound_and_assignment_enclose_the_optimum(
    device: str, optimum: Callable, tokens: int, experts: int, k: int, factor: float, skew: float
) -> None:
    scores_TE = scores(tokens, experts, seed=tokens, skew=skew)
    capacity_E = torch.full((experts,), int(factor * tokens * k / experts))
    prices_E, bound = solve(scores_TE.to(device), capacity_E.to(device), k, sweeps=10)
    assert bool((prices_E >= 0).all())
    best = optimum(scores_TE, capacity_E, k)
    ids_TK = route(None, None, k, scores_TE=scores_TE.to(device), prices_E=prices_E).ids_TK.cpu().long()
    if factor < 1:  # slots are short: none for a token that would lose by it
        ids_TK[scores_TE.gather(1, ids_TK) <= prices_E.cpu()[ids_TK]] = -1
    kept = kept_within(scores_TE, ids_TK, capacity_E)
    assert kept <= best * (1 + 1e-9)
    assert best <= float(bound) * (1 + 1e-6)
    assert float(bound) <= best * 1.002
    assert kept >= best * 0.98


def test_no_price_where_wishes_fit(device: str) -> None:
    scores_TE = scores(100, 4, seed=1, skew=0.0)
    prices_E, bound = solve(scores_TE.to(device), torch.full((4,), 100, device=device), 2)
    assert not prices_E.any()
    assert abs(float(bound) - float(scores_TE.topk(2, dim=1).values.double().sum())) < 1e-4


def test_a_dead_expert_has_no_price_that_anybody_pays(device: str, optimum: Callable) -> None:
    scores_TE = scores(120, 6, seed=2, skew=0.3)
    capacity_E = torch.tensor([0, 60, 40, 60, 50, 60])
    prices_E, bound = solve(scores_TE.to(device), capacity_E.to(device), 2, sweeps=10)
    assert prices_E[0] == torch.inf
    assert torch.isfinite(prices_E[1:]).all()
    best = optimum(scores_TE, capacity_E, 2)
    assert best * (1 - 1e-6) <= float(bound) <= best * 1.003


def test_as_many_picks_as_experts_costs_nothing(device: str) -> None:
    scores_TE = scores(50, 3, seed=3, skew=0.3)
    prices_E, bound = solve(scores_TE.to(device), torch.full((3,), 50, device=device), 3)
    assert not prices_E.any()
    assert abs(float(bound) - 50.0) < 1e-3


def test_two_runs_give_the_same_bits_and_a_warm_start_saves_sweeps(device: str) -> None:
    scores_TE = scores(128, 8, seed=4, skew=0.3).to(device)
    capacity_E = torch.full((8,), 32, device=device)
    cold = solve(scores_TE, capacity_E, 2, sweeps=5)
    again = solve(scores_TE, capacity_E, 2, sweeps=5)
    assert torch.equal(cold[0], again[0])
    assert torch.equal(cold[1], again[1])
    warm = solve(scores_TE, capacity_E, 2, start_E=cold[0], sweeps=1)
    assert float(warm.bound) <= float(solve(scores_TE, capacity_E, 2, sweeps=1).bound)


def test_equal_scores(device: str) -> None:
    prices_E, bound = solve(torch.full((64, 4), 0.25, device=device), torch.full((4,), 16, device=device), 1)
    assert torch.isfinite(prices_E).all()
    assert float(bound) == pytest.approx(16.0, rel=1e-5)


def test_a_bias_counts_as_score(device: str) -> None:
    scores_TE, bias_E = scores(96, 4, seed=5, skew=0.3).to(device), torch.tensor([0.0, 0.3, 0.1, 0.2], device=device)
    capacity_E = torch.full((4,), 48, device=device)
    biased = solve(scores_TE, capacity_E, 2, bias_E=bias_E, sweeps=4)
    summed = solve(scores_TE + bias_E, capacity_E, 2, sweeps=4)
    assert torch.allclose(biased.prices_E, summed.prices_E, atol=1e-6)
    assert float(biased.bound) == pytest.approx(float(summed.bound), rel=1e-6)
