"""Hard balance on the device: never over capacity, nothing lost, distinct experts, near the optimum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kernels.gpu import assign as assigning
from kernels.gpu.assign import Assignment, assign
from kernels.gpu.prices import solve


def scores(tokens: int, experts: int, seed: int, skew: float, alike: float = 0.0) -> Tensor:
    """Softmax scores; `alike` of the tokens are copies of the first."""
    draws = torch.Generator().manual_seed(seed)
    logits_TE = torch.randn(tokens, experts, generator=draws) * 1.5 - skew * torch.arange(experts)
    logits_TE[: int(alike * tokens)] = logits_TE[:1]
    return logits_TE.softmax(1)


def held(made: Assignment, experts: int) -> Tensor:
    return (made.held_T.cpu()[:, None] >> torch.arange(experts)) & 1


def assigned(scores_TE: Tensor, capacity_E: Tensor, k: int, device: str, **more: Any) -> Assignment:
    scores_TE, capacity_E = scores_TE.to(device), capacity_E.to(device)
    return assign(scores_TE, capacity_E, k, solve(scores_TE, capacity_E, k, sweeps=more.pop("sweeps", 4)), **more)


def check(made: Assignment, scores_TE: Tensor, capacity_E: Tensor, k: int) -> None:
    """The policy's promises: loads within capacities, k distinct experts for each token as far as there is room."""
    tokens, experts = scores_TE.shape
    held_TE = held(made, experts)
    load_E = held_TE.sum(0)
    assert torch.equal(load_E, made.load_E.cpu().long())
    slots_E = capacity_E.clamp(max=tokens)
    assert bool((load_E <= slots_E).all())
    k = min(k, int((capacity_E > 0).sum()))
    assert bool((held_TE.sum(1) <= k).all())
    assert int(load_E.sum()) == min(tokens * k, int(slots_E.sum()))
    kept = float((scores_TE.double() * held_TE).sum())
    assert float(made.kept) == pytest.approx(kept, rel=1e-9)
    assert 0 <= float(made.gap) < 1


@given(
    tokens=st.integers(0, 120),
    experts=st.sampled_from([1, 2, 5, 17, 64]),
    k=st.integers(1, 5),
    factor=st.sampled_from([0.4, 1.0, 1.25]),
    skew=st.sampled_from([0.0, 0.5, 30.0]),
    alike=st.sampled_from([0.0, 0.6, 1.0]),
    dead=st.booleans(),
    seed=st.integers(0, 99),
)
def test_nothing_is_lost_and_nobody_is_over(
    device: str, tokens: int, experts: int, k: int, factor: float, skew: float, alike: float, dead: bool, seed: int
) -> None:
    k = min(k, experts)
    scores_TE = scores(tokens, experts, seed, skew, alike)
    capacity_E = torch.full((experts,), -(-int(factor * tokens * k) // experts))
    if dead and experts > 1:
        capacity_E[seed % experts] = 0
    check(assigned(scores_TE, capacity_E, k, device), scores_TE, capacity_E, k)


@pytest.mark.parametrize(("skew", "alike", "share"), [(0.4, 0.0, 0.998), (0.2, 0.5, 0.985)])
def test_it_keeps_nearly_as_much_as_can_be_kept(
    device: str, optimum: Callable, skew: float, alike: float, share: float
) -> None:
    scores_TE, capacity_E = scores(512, 8, 3, skew, alike), torch.full((8,), 128)
    made = assigned(scores_TE, capacity_E, 2, device, sweeps=12)
    check(made, scores_TE, capacity_E, 2)
    best = optimum(scores_TE, capacity_E, 2)
    assert share * best <= float(made.kept) <= best * (1 + 1e-9)
    assert float(made.gap) >= 1 - float(made.kept) / best - 1e-6


def test_where_wishes_fit_they_come_true(device: str) -> None:
    scores_TE = scores(150, 6, 1, 0.0)
    made = assigned(scores_TE, torch.full((6,), 150), 2, device)
    expected_TE = torch.zeros(150, 6, dtype=torch.int64).scatter(1, scores_TE.topk(2, dim=1).indices, 1)
    assert torch.equal(held(made, 6), expected_TE)
    assert float(made.gap) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("tokens", "experts", "k"), [(16, 64, 3), (12, 4, 3)])
def test_ring_and_exchange_alone_place_every_slot(
    device: str, monkeypatch: pytest.MonkeyPatch, tokens: int, experts: int, k: int
) -> None:
    """Where experts are few the ring gives neighbouring slots of a token to one expert: the rest are exchanged."""
    monkeypatch.setattr(assigning, "ROUNDS", 0)
    scores_TE, capacity_E = scores(tokens, experts, 2, 3.0, 0.8), torch.full((experts,), -(-tokens * k // experts))
    made = [assigned(scores_TE, capacity_E, k, device, phase=torch.tensor(phase, device=device)) for phase in (1, 2)]
    for each in made:
        check(each, scores_TE, capacity_E, k)
    assert not torch.equal(made[0].held_T, made[1].held_T)


def test_two_runs_give_the_same_bits(device: str) -> None:
    scores_TE, capacity_E = scores(70, 7, 4, 0.5, 0.5), torch.full((7,), 20)
    first, second = (assigned(scores_TE, capacity_E, 2, device) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_token_of_nan_is_served_and_spoils_no_other(device: str) -> None:
    scores_TE, capacity_E = scores(60, 5, 6, 0.3), torch.full((5,), 24)
    scores_TE[7] = torch.nan
    made = assigned(scores_TE, capacity_E, 2, device)
    check(made, scores_TE.nan_to_num(0), capacity_E, 2)


def test_prices_of_another_batch_do_no_harm(device: str) -> None:
    scores_TE, capacity_E = scores(100, 5, 8, 0.4).to(device), torch.full((5,), 40, device=device)
    start_E = torch.tensor([torch.nan, -3.0, torch.inf, 9.0, 0.1], device=device)
    prices = solve(scores_TE, capacity_E, 2, start_E=start_E)
    assert torch.isfinite(prices.prices_E).all()
    check(assign(scores_TE, capacity_E, 2, prices), scores_TE.cpu(), capacity_E.cpu(), 2)


def test_more_experts_than_bits_are_refused(device: str) -> None:
    scores_TE, capacity_E = scores(4, 65, 0, 0.0).to(device), torch.full((65,), 4, device=device)
    with pytest.raises(ValueError, match="at most 64 experts, not 65"):
        assign(scores_TE, capacity_E, 1, solve(scores_TE, capacity_E, 1))
