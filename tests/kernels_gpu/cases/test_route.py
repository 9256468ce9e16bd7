"""Routing on the device: scores against float64, choice and gates against the torch form, ranks one by one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import ops, reference
from kernels.gpu.route import Routes, route


def whole_ranks(routes: Routes) -> torch.Tensor:
    """Ranks in the batch from ranks in the block."""
    counts_BE, ids_TK = routes.counts_BE.cpu().long(), routes.ids_TK.cpu().long()
    before_BE = counts_BE.cumsum(0) - counts_BE
    block_T = torch.arange(ids_TK.shape[0]) // routes.block
    rank_TK = routes.rank_TK.cpu() + before_BE[block_T[:, None], ids_TK.clamp_min(0)]
    return rank_TK.masked_fill(ids_TK < 0, -1)


@given(
    tokens=st.integers(0, 150),
    width=st.sampled_from([1, 7, 64, 96]),
    experts=st.sampled_from([1, 3, 8, 16, 33]),
    k=st.integers(1, 4),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_route(
    problem: Callable, device: str, tokens: int, width: int, experts: int, k: int, biased: bool, seed: int
) -> None:
    k, case = min(k, experts), problem(tokens, width, 4, experts, 1, seed=seed)
    draws = torch.Generator().manual_seed(seed)
    bias_E = torch.rand(experts, generator=draws).to(device) if biased else None
    prices_E = torch.rand(experts, generator=draws).to(device) if biased else None
    routes = route(case.x_TD, case.gate_DE, k, bias_E=bias_E, prices_E=prices_E, keep_scores=True)
    assert routes.scores_TE is not None
    expected_TE = reference.gate_scores(case.x_TD.double().cpu(), case.gate_DE.double().cpu())
    scores_TE = routes.scores_TE.cpu()
    assert (scores_TE - expected_TE).norm() <= 1e-6 * expected_TE.norm()
    on_cpu = [None if t is None else t.cpu() for t in (bias_E, prices_E)]
    ids_TK = ops.choose(scores_TE, k, bias_E=on_cpu[0], prices_E=on_cpu[1])
    assert torch.equal(routes.ids_TK.cpu().long(), ids_TK)
    gates_TK = ops.normalised_gates(scores_TE.double(), ids_TK)
    assert torch.allclose(routes.gates_TK.cpu().double(), gates_TK, rtol=1e-6, atol=1e-7)
    rank_TK, load_E = reference.rank_slots(ids_TK, experts)
    assert torch.equal(whole_ranks(routes), rank_TK)
    assert torch.equal(routes.counts_BE.cpu().long().sum(0), load_E)


@pytest.mark.parametrize("k", [1, 2, 8])
def test_finished_scores_give_the_same_routes(problem: Callable, k: int) -> None:
    case = problem(70, 16, 4, 8, 1)
    first = route(case.x_TD, case.gate_DE, k, keep_scores=True)
    second = route(None, None, k, scores_TE=first.scores_TE)
    for name in ("ids_TK", "rank_TK", "counts_BE"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert torch.allclose(first.gates_TK, second.gates_TK, rtol=1e-6, atol=0)


def test_ties_go_to_the_lower_expert(device: str) -> None:
    routes = route(None, None, 3, scores_TE=torch.full((5, 6), 0.5, device=device))
    assert routes.ids_TK.tolist() == [[0, 1, 2]] * 5


def test_experts_at_an_infinite_price_are_never_chosen(device: str) -> None:
    prices_E = torch.tensor([torch.inf, 0, torch.inf, 0, torch.inf], device=device)
    routes = route(None, None, 3, scores_TE=torch.full((4, 5), 0.2, device=device), prices_E=prices_E)
    assert routes.ids_TK.tolist() == [[1, 3, -1]] * 4
    assert torch.allclose(routes.gates_TK.cpu(), torch.tensor([0.5, 0.5, 0.0]), rtol=1e-6, atol=0)
    assert routes.rank_TK.tolist() == [[i, i, -1] for i in range(4)]
    assert routes.counts_BE.tolist() == [[0, 4, 0, 4, 0]]


def test_scores_of_nought_give_equal_gates(device: str) -> None:
    gates_TK = route(None, None, 2, scores_TE=torch.zeros(2, 3, device=device)).gates_TK.cpu()
    assert torch.allclose(gates_TK, torch.tensor([0.5, 0.5]), rtol=1e-6, atol=0)  # a GPU divides to two last places


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, under the interpreter
def test_a_token_of_nan_takes_distinct_experts_and_spoils_no_other(problem: Callable) -> None:
    case = problem(40, 16, 4, 6, 2)
    clean = route(case.x_TD, case.gate_DE, 2)
    case.x_TD[7] = torch.nan
    routes = route(case.x_TD, case.gate_DE, 2)
    assert len(set(routes.ids_TK[7].tolist())) == 2
    assert torch.equal(routes.counts_BE.sum(), clean.counts_BE.sum())
    others = torch.arange(40, device=case.x_TD.device) != 7
    assert torch.equal(routes.ids_TK[others], clean.ids_TK[others])
    assert torch.equal(routes.gates_TK[others], clean.gates_TK[others])


def test_bfloat16(problem: Callable) -> None:
    case = problem(90, 48, 4, 8, 1, dtype=torch.bfloat16)
    routes = route(case.x_TD, case.gate_DE, 2, keep_scores=True)
    expected_TE = reference.gate_scores(case.x_TD.double().cpu(), case.gate_DE.double().cpu())
    assert (routes.scores_TE.cpu() - expected_TE).norm() <= 1e-6 * expected_TE.norm()


def test_nothing_to_route_by_is_said() -> None:
    with pytest.raises(ValueError, match="scores_TE, or both"):
        route(None, None, 1)
