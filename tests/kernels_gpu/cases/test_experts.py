"""The experts of a plan, in one kernel and in two, and their weighted sum, against the float64 definition."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.gpu import layer, tiles
from kernels.gpu.experts import experts


@pytest.fixture(params=["one kernel", "two kernels"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    served = request.param == "one kernel"
    monkeypatch.setattr(tiles, "fused_serves", lambda width, dtype: served)
    return str(request.param)


@given(
    tokens=st.integers(0, 90),
    width=st.sampled_from([5, 16, 40]),
    hidden=st.sampled_from([7, 16, 45]),
    experts=st.sampled_from([1, 4, 9]),
    k=st.integers(1, 3),
    skew=st.sampled_from([0.0, 1.0, 20.0]),
    unused=st.sampled_from([0.0, 0.3, 1.0]),
    two_kernels=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values(
    problem: Callable,
    tokens: int,
    width: int,
    hidden: int,
    experts: int,
    k: int,
    skew: float,
    unused: float,
    two_kernels: bool,
    seed: int,
) -> None:
    case = problem(tokens, width, hidden, experts, min(k, experts), seed=seed, skew=skew)
    case.ids_TK[torch.rand(case.ids_TK.shape, generator=torch.Generator().manual_seed(seed)) < unused] = -1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "fused_serves", lambda width, dtype: not two_kernels)
        actual = layer.planned(case.x_TD, *case.plan(), case.w_up, case.w_down, None)
    assert actual.shape == case.x_TD.shape
    assert case.error(actual) < 1e-6


@pytest.mark.parametrize("shape", [(130, 64, 128, 8, 2), (65, 128, 64, 4, 4), (257, 32, 48, 3, 1)])
def test_sizes_in_use(problem: Callable, form: str, shape: tuple[int, ...]) -> None:
    case = problem(*shape)
    assert case.error(layer.planned(case.x_TD, *case.plan(), case.w_up, case.w_down, None)) < 1e-6


def test_bfloat16(problem: Callable, bfloat16_error: float, form: str) -> None:
    case = problem(150, 64, 96, 6, 2, dtype=torch.bfloat16)
    actual = layer.planned(case.x_TD, *case.plan(), case.w_up, case.w_down, None)
    assert actual.dtype == torch.bfloat16
    assert case.error(actual) < bfloat16_error


def test_tokens_without_slots_may_hold_anything(problem: Callable, form: str) -> None:
    case = problem(60, 16, 16, 4, 2)
    case.ids_TK[[0, 7, 59]] = -1
    plan = case.plan()
    expected = case.expected()
    case.x_TD[[0, 7, 59]] = torch.nan
    case.gates_TK[[0, 7, 59]] = torch.nan
    actual = layer.planned(case.x_TD, *plan, case.w_up, case.w_down, None).cpu()
    assert torch.isfinite(actual).all()
    assert not actual[[0, 7, 59]].any()
    assert (actual - expected).norm() < 1e-6 * expected.norm()


def test_slots_beyond_the_capacity_contribute_nothing_and_are_not_read(problem: Callable, form: str) -> None:
    case = problem(50, 16, 16, 3, 1)
    ids_TK, gates_TK, rank_TK, load_E = case.plan()
    over_T = (rank_TK >= 9).any(1)
    case.ids_TK = torch.where(rank_TK < 9, ids_TK, -1)
    expected = case.expected()
    case.x_TD[over_T] = torch.nan
    actual = layer.planned(case.x_TD, ids_TK, gates_TK, rank_TK, load_E, case.w_up, case.w_down, 9).cpu()
    assert (actual - expected).norm() < 1e-6 * expected.norm()
    assert not layer.planned(case.x_TD, ids_TK, gates_TK, rank_TK, load_E, case.w_up, case.w_down, 0).any()


def test_two_runs_give_the_same_bits(problem: Callable, form: str) -> None:
    case = problem(140, 32, 48, 8, 2)
    runs = [layer.planned(case.x_TD, *case.plan(), case.w_up, case.w_down, None) for _ in range(2)]
    assert torch.equal(*runs)


def test_a_width_that_does_not_fit_is_refused(problem: Callable) -> None:
    case = problem(4, 512, 4, 2, 1)
    routes = layer.route(case.x_TD, case.gate_DE, 1)
    made = layer.plan(*routes[:4], 16, block=routes.block)
    with pytest.raises(ValueError, match="does not serve width 512"):
        experts(case.x_TD, made, case.w_up, case.w_down)
