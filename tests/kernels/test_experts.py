"""The expert layer, static and dropless, torch and compiled, against the float64 definition; and what must not leak."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import ops
from kernels.cpu import library

FORMS = ["static", "dropless"]


@pytest.mark.parametrize("form", FORMS)
@given(
    tokens=st.integers(1, 120),
    width=st.sampled_from([1, 4, 7, 32, 40]),
    hidden=st.sampled_from([1, 5, 16, 33]),
    experts=st.sampled_from([1, 2, 5, 16]),
    k=st.integers(1, 4),
    skew=st.sampled_from([0.0, 1.0, 20.0]),
    unused=st.floats(0, 1),
    slack=st.integers(0, 9),
    bfloat16=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_values(
    make_layer: Callable,
    in_form: Callable,
    form: str,
    tokens: int,
    width: int,
    hidden: int,
    experts: int,
    k: int,
    skew: float,
    unused: float,
    slack: int,
    bfloat16: bool,
    seed: int,
) -> None:
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    case = make_layer(tokens, width, hidden, experts, min(k, experts), seed=seed, skew=skew, dtype=dtype)
    case.ids_TK[torch.rand(case.ids_TK.shape, generator=torch.Generator().manual_seed(seed)) < unused] = -1
    with in_form():
        error = float((case.run(case.capacity(form, slack)).double() - case.reference()).norm())
    # A single number may be rounded the same way every time; over a layer of real size that evens out.
    assert error <= (1.2e-2 if bfloat16 else 1e-6) * case.scale()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape", [(700, 64, 128, 8, 2), (64, 64, 128, 32, 2), (1500, 16, 32, 4, 4), (128, 128, 256, 8, 2)]
)
def test_values_at_the_sizes_in_use(
    make_layer: Callable,
    in_form: Callable,
    relative: Callable,
    form: str,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int, int],
) -> None:
    case = make_layer(*shape, skew=0.1, dtype=dtype)
    with in_form():
        actual = case.run(case.capacity(form))
    assert actual.dtype == dtype
    assert relative(actual, case.reference()) < (5e-3 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_everybody_wants_everything(make_layer: Callable, in_form: Callable, relative: Callable, form: str) -> None:
    with in_form():
        for case in (make_layer(50, 16, 24, 5, 5), make_layer(150, 16, 24, 5, 1, skew=100.0)):
            assert relative(case.run(case.capacity(form)), case.reference()) < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_large_gate_values_saturate(make_layer: Callable, in_form: Callable, relative: Callable, form: str) -> None:
    case = make_layer(60, 16, 24, 4, 2)
    case.w_up *= 200
    with in_form():
        assert relative(case.run(case.capacity(form)), case.reference()) < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_tokens_without_slots_may_hold_anything(
    make_layer: Callable, in_form: Callable, relative: Callable, form: str
) -> None:
    case = make_layer(40, 8, 8, 4, 2)
    case.ids_TK[[0, 7, 39]] = -1
    clean = case.reference()
    case.x_TD[[0, 7, 39]] = torch.nan
    case.gates_TK[[0, 7]] = torch.nan
    case.x_TD.requires_grad_()
    case.w_up.requires_grad_()
    case.w_down.requires_grad_()
    with in_form():
        actual = case.run(case.capacity(form, 3))
        actual.square().sum().backward()
    assert torch.isfinite(actual).all()
    assert not actual[[0, 7, 39]].any()
    assert relative(actual.detach(), clean) < 1e-6
    for weight in (case.x_TD, case.w_up, case.w_down):
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_token_that_is_not_a_number_spoils_its_own_row_alone(
    make_layer: Callable, in_form: Callable, form: str
) -> None:
    case = make_layer(40, 8, 8, 4, 2)
    case.ids_TK[5] = -1
    case.x_TD[[0, 17]] = torch.nan
    with in_form():
        bad_T = case.run(case.capacity(form, 3)).isnan().any(dim=1)
    assert bad_T.nonzero().flatten().tolist() == [0, 17]


def test_slots_ranked_beyond_the_capacity_contribute_nothing(
    make_layer: Callable, in_form: Callable, relative: Callable
) -> None:
    case = make_layer(30, 8, 8, 3, 1)
    rank_TK, _ = case.plan()
    over = rank_TK >= 4
    with in_form():
        case.x_TD[over[:, 0]] = torch.nan
        actual = case.run(4)
        case.ids_TK[over] = -1
        assert relative(actual, case.reference()) < 1e-6
        assert not case.run(0).any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", [1, 3])
def test_no_tokens(make_layer: Callable, in_form: Callable, form: str, k: int) -> None:
    case = make_layer(0, 8, 4, 3, k)
    case.x_TD.requires_grad_()
    case.w_up.requires_grad_()
    with in_form():
        result = case.run(5 if form == "static" else None)
        assert result.shape == (0, 8)
        result.sum().backward()
    assert case.w_up.grad is not None
    assert not case.w_up.grad.any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_two_runs_give_the_same_bits(make_layer: Callable, in_form: Callable, form: str, dtype: torch.dtype) -> None:
    case, runs = make_layer(500, 32, 48, 8, 2, dtype=dtype), []
    inputs = case.floats()
    with in_form():
        for _ in range(2):
            y_TD = case.run(case.capacity(form))
            runs.append([y_TD, *torch.autograd.grad(y_TD.square().sum(), inputs)])
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_the_number_of_threads_changes_no_bit_of_the_compiled_form(make_layer: Callable, in_form: Callable) -> None:
    case, threads = make_layer(700, 64, 96, 8, 2), torch.get_num_threads()
    with in_form():
        try:
            torch.set_num_threads(1)
            alone = case.run(None)
            torch.set_num_threads(2)
            exact = library.serves(case.x_TD)
            assert torch.allclose(alone, case.run(None), rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6)
        finally:
            torch.set_num_threads(threads)


def test_results_do_not_share_memory(make_layer: Callable, in_form: Callable) -> None:
    case, other = make_layer(100, 16, 16, 4, 2), make_layer(100, 16, 16, 4, 2, seed=9)
    with in_form():
        first = case.run(None)
        kept = first.clone()
        other.run(None)
        with torch.inference_mode():
            case.run(60)
    assert torch.equal(first, kept)


def test_tokens_and_weights_that_are_not_contiguous(
    make_layer: Callable, in_form: Callable, relative: Callable
) -> None:
    case = make_layer(50, 16, 24, 4, 2)
    case.x_TD = case.x_TD.T.contiguous().T
    case.w_up = case.w_up.transpose(1, 2).contiguous().transpose(1, 2)
    with in_form():
        assert relative(case.run(None), case.reference()) < 1e-6


def test_wrong_shapes_are_named(make_layer: Callable) -> None:
    case = make_layer(10, 4, 3, 3, 2)
    rank_TK, load_E = case.plan()
    arguments = [case.x_TD, case.ids_TK, case.gates_TK, rank_TK, load_E, case.w_up, case.w_down]
    with pytest.raises(ValueError, match="w_up"):
        ops.moe_experts(*arguments[:5], case.w_up[:, :3], case.w_down, capacity=None)
    with pytest.raises(ValueError, match="gates"):
        ops.moe_experts(*arguments[:2], case.gates_TK[:5], *arguments[3:], capacity=None)
    with pytest.raises(ValueError, match="load"):
        ops.moe_experts(*arguments[:4], load_E[:2], *arguments[5:], capacity=None)
    with pytest.raises(ValueError, match="capacity must be >= 0"):
        ops.moe_experts(*arguments, capacity=-1)
