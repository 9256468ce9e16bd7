"""Gradients of the three operations of a layer, against those of the definition and against differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kernels import ops

FORMS = ["static", "dropless"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 2e-6)], ids=str)
def test_they_are_those_of_the_definition(
    make_layer: Callable, in_form: Callable, relative: Callable, form: str, dtype: torch.dtype, within: float
) -> None:
    case = make_layer(25, 6, 5, 4, 2, dtype=dtype, skew=1.0)
    case.ids_TK[3, 1] = -1
    case.ids_TK[9] = -1
    case.ids_TK[case.ids_TK == 2] = 3  # an empty expert; a token may hold 3 twice, which only the sums see
    inputs = case.floats()
    weights = torch.randn(25, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((case.reference() * weights).sum(), inputs)
    with in_form():
        actual = torch.autograd.grad((case.run(case.capacity(form, 2)) * weights).sum(), inputs)
    for got, wanted in zip(actual, expected, strict=True):
        assert relative(got, wanted) < within


@pytest.mark.parametrize("form", FORMS)
def test_experts_by_differences(make_layer: Callable, form: str) -> None:
    case = make_layer(7, 3, 2, 3, 2, dtype=torch.float64)
    capacity = case.capacity(form, 1)

    def run(x_TD: Tensor, gates_TK: Tensor, w_up: Tensor, w_down: Tensor) -> Tensor:
        return replace(case, x_TD=x_TD, gates_TK=gates_TK, w_up=w_up, w_down=w_down).run(capacity)

    assert torch.autograd.gradcheck(run, tuple(case.floats()))


@pytest.mark.parametrize("capacity", [None, 3])
def test_routing_by_differences(capacity: int | None) -> None:
    draws = torch.Generator().manual_seed(0)
    x_TD = torch.randn(9, 4, dtype=torch.float64, generator=draws).requires_grad_()
    gate_DE = torch.randn(4, 5, dtype=torch.float64, generator=draws).requires_grad_()

    def run(x_TD: Tensor, gate_DE: Tensor) -> tuple[Tensor, Tensor]:
        scores_TE, _, gates_TK, _, _ = ops.route_and_plan(x_TD, gate_DE, None, None, 2, capacity)
        return scores_TE, gates_TK

    assert torch.autograd.gradcheck(run, (x_TD, gate_DE))
