"""The expert layer, static and dropless, against the float64 definition: values, gradients, and what must not leak."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import ops, reference


@dataclass
class Layer:
    x_TD: Tensor
    ids_TK: Tensor
    gates_TK: Tensor
    w_up: Tensor
    w_down: Tensor

    def run(self, capacity: int | None) -> Tensor:
        rank_TK, load_E = ops.rank_slots(self.ids_TK, self.w_up.shape[0])
        return ops.moe_experts(
            self.x_TD, self.ids_TK, self.gates_TK, rank_TK, load_E, self.w_up, self.w_down, capacity=capacity
        )

    def reference(self) -> Tensor:
        parts = [t.double() for t in (self.gates_TK, self.w_up, self.w_down)]
        return reference.moe_experts(self.x_TD.double(), self.ids_TK, *parts)

    def scale(self) -> float:
        """Norm of the layer with every number positive: the measure of an error where the sums themselves cancel."""
        parts = [t.double().abs() for t in (self.x_TD, self.gates_TK, self.w_up, self.w_down)]
        return float(reference.moe_experts(parts[0], self.ids_TK, *parts[1:]).norm())

    def largest_load(self) -> int:
        return int(ops.rank_slots(self.ids_TK, self.w_up.shape[0])[1].max())


def layer(
    tokens: int,
    width: int,
    hidden: int,
    experts: int,
    k: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    skew: float = 0,
) -> Layer:
    draws = torch.Generator().manual_seed(seed)
    scores_TE = (torch.randn(tokens, experts, generator=draws) - skew * torch.arange(experts)).softmax(1)
    ids_TK = scores_TE.topk(k, dim=1).indices
    return Layer(
        torch.randn(tokens, width, generator=draws).to(dtype),
        ids_TK,
        ops.normalised_gates(scores_TE, ids_TK).to(dtype),
        (torch.randn(experts, width, 2 * hidden, generator=draws) / width**0.5).to(dtype),
        (torch.randn(experts, hidden, width, generator=draws) / hidden**0.5).to(dtype),
    )


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30))


FORMS = ["static", "dropless"]


def capacity_of(form: str, case: Layer, slack: int = 0) -> int | None:
    return case.largest_load() + slack if form == "static" else None


@pytest.mark.parametrize("form", FORMS)
@given(
    tokens=st.integers(1, 120),
    width=st.sampled_from([1, 4, 7, 32]),
    hidden=st.sampled_from([1, 5, 16]),
    experts=st.sampled_from([1, 2, 5, 16]),
    k=st.integers(1, 4),
    skew=st.sampled_from([0.0, 1.0, 20.0]),
    unused=st.floats(0, 1),
    slack=st.integers(0, 9),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_values(
    form: str,
    tokens: int,
    width: int,
    hidden: int,
    experts: int,
    k: int,
    skew: float,
    unused: float,
    slack: int,
    seed: int,
) -> None:
    case = layer(tokens, width, hidden, experts, min(k, experts), seed=seed, skew=skew)
    case.ids_TK[torch.rand(case.ids_TK.shape, generator=torch.Generator().manual_seed(seed)) < unused] = -1
    error = float((case.run(capacity_of(form, case, slack)).double() - case.reference()).norm())
    assert error <= 1e-6 * case.scale()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(700, 64, 128, 8, 2), (64, 64, 128, 32, 2), (1500, 16, 32, 4, 4)])
def test_values_at_the_sizes_in_use(form: str, shape: tuple[int, int, int, int, int]) -> None:
    case = layer(*shape, skew=0.1)
    assert relative(case.run(capacity_of(form, case)), case.reference()) < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16(form: str) -> None:
    case = layer(300, 32, 64, 8, 2, dtype=torch.bfloat16)
    actual = case.run(capacity_of(form, case))
    assert actual.dtype == torch.bfloat16
    assert relative(actual, case.reference()) < 8e-3


@pytest.mark.parametrize("form", FORMS)
def test_tokens_without_slots_may_hold_anything(form: str) -> None:
    case = layer(40, 8, 8, 4, 2)
    case.ids_TK[[0, 7, 39]] = -1
    clean = case.reference()
    case.x_TD[[0, 7, 39]] = torch.nan
    case.gates_TK[[0, 7]] = torch.nan
    case.x_TD.requires_grad_()
    case.w_up.requires_grad_()
    case.w_down.requires_grad_()
    actual = case.run(capacity_of(form, case, 3))
    assert torch.isfinite(actual).all()
    assert not actual[[0, 7, 39]].any()
    assert relative(actual.detach(), clean) < 1e-6
    actual.square().sum().backward()
    for weight in (case.x_TD, case.w_up, case.w_down):
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()


def test_slots_ranked_beyond_the_capacity_contribute_nothing() -> None:
    case = layer(30, 8, 8, 3, 1)
    rank_TK, _ = ops.rank_slots(case.ids_TK, 3)
    over = rank_TK >= 4
    actual = case.run(4)
    case.ids_TK[over] = -1
    assert relative(actual, case.reference()) < 1e-6
    assert not case.run(0).any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", [1, 3])
def test_no_tokens(form: str, k: int) -> None:
    case = layer(0, 8, 4, 3, k)
    case.x_TD.requires_grad_()
    case.w_up.requires_grad_()
    result = case.run(5 if form == "static" else None)
    assert result.shape == (0, 8)
    result.sum().backward()
    assert case.w_up.grad is not None
    assert not case.w_up.grad.any()


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_the_definition(form: str) -> None:
    case = layer(25, 6, 5, 4, 2, dtype=torch.float64, skew=1.0)
    case.ids_TK[3, 1] = -1
    case.ids_TK[9] = -1
    case.ids_TK[case.ids_TK == 2] = 3  # an empty expert; a token may hold 3 twice, which only the sums see
    inputs = [case.x_TD, case.gates_TK, case.w_up, case.w_down]
    for tensor in inputs:
        tensor.requires_grad_()
    weights = torch.randn(25, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((case.reference() * weights).sum(), inputs)
    actual = torch.autograd.grad((case.run(capacity_of(form, case, 2)) * weights).sum(), inputs)
    for got, wanted in zip(actual, expected, strict=True):
        assert relative(got, wanted) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form: str) -> None:
    case = layer(7, 3, 2, 3, 2, dtype=torch.float64)
    capacity = capacity_of(form, case, 1)
    inputs = tuple(t.requires_grad_() for t in (case.x_TD, case.gates_TK, case.w_up, case.w_down))

    def run(x_TD: Tensor, gates_TK: Tensor, w_up: Tensor, w_down: Tensor) -> Tensor:
        return Layer(x_TD, case.ids_TK, gates_TK, w_up, w_down).run(capacity)

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("form", FORMS)
def test_two_runs_give_the_same_bits(form: str) -> None:
    case = layer(500, 32, 48, 8, 2)
    inputs = [case.x_TD, case.gates_TK, case.w_up, case.w_down]
    for tensor in inputs:
        tensor.requires_grad_()
    runs = []
    for _ in range(2):
        y_TD = case.run(capacity_of(form, case))
        runs.append([y_TD, *torch.autograd.grad(y_TD.square().sum(), inputs)])
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_results_do_not_share_the_workspace() -> None:
    case, other = layer(100, 16, 16, 4, 2), layer(100, 16, 16, 4, 2, seed=9)
    first = case.run(None)
    kept = first.clone()
    other.run(None)
    with torch.inference_mode():
        case.run(60)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("form", FORMS)
def test_opcheck(form: str) -> None:
    case = layer(10, 4, 3, 3, 2)
    rank_TK, load_E = ops.rank_slots(case.ids_TK, 3)
    rows = [10, 10, 10] if form == "static" else load_E.tolist()
    floats = [t.requires_grad_() for t in (case.x_TD, case.gates_TK, case.w_up, case.w_down)]
    arguments = (floats[0], case.ids_TK, floats[1], rank_TK, rows, floats[2], floats[3])
    torch.library.opcheck(torch.ops.moe.experts.default, arguments)


def test_wrong_shapes_are_named() -> None:
    case = layer(10, 4, 3, 3, 2)
    rank_TK, load_E = ops.rank_slots(case.ids_TK, 3)
    arguments = [case.x_TD, case.ids_TK, case.gates_TK, rank_TK, load_E, case.w_up, case.w_down]
    with pytest.raises(ValueError, match="w_up"):
        ops.moe_experts(*arguments[:5], case.w_up[:, :3], case.w_down, capacity=None)
    with pytest.raises(ValueError, match="gates"):
        ops.moe_experts(*arguments[:2], case.gates_TK[:5], *arguments[3:], capacity=None)
    with pytest.raises(ValueError, match="capacity must be >= 0"):
        ops.moe_experts(*arguments, capacity=-1)
