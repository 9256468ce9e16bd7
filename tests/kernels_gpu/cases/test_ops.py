"""The op behind `kernels.ops.moe_experts` on a GPU: its contract, tracing, and that torch and Triton agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kernels import ops
from kernels.gpu import layer


@pytest.mark.parametrize("capacity", [None, 7])
def test_opcheck(problem: Callable, capacity: int | None) -> None:
    case = problem(20, 16, 16, 3, 2)
    torch.library.opcheck(
        torch.ops.moe.planned_experts.default, (case.x_TD, *case.plan(), case.w_up, case.w_down, capacity)
    )


@pytest.mark.parametrize("capacity", [None, 0, 9, 100])
def test_both_forms_agree(problem: Callable, capacity: int | None) -> None:
    case = problem(45, 24, 16, 5, 2, skew=0.3)
    arguments = case.x_TD, *case.plan(), case.w_up, case.w_down
    by_triton = ops.planned_experts(*arguments, capacity).cpu()
    by_torch = ops.moe_experts(*(t.cpu() for t in arguments), capacity=capacity)
    assert torch.allclose(by_triton, by_torch, rtol=1e-5, atol=1e-6)
    assert torch.equal(by_triton, ops.planned_experts(*arguments, capacity).cpu())


def test_it_is_traced_in_one_graph(problem: Callable) -> None:
    case = problem(20, 16, 16, 3, 2)
    arguments = case.x_TD, *case.plan(), case.w_up, case.w_down
    traced = torch.compile(lambda *a: ops.planned_experts(*a, None) * 2, fullgraph=True, backend="eager")
    assert torch.equal(traced(*arguments), ops.planned_experts(*arguments, None) * 2)


def test_tokens_and_weights_that_are_not_contiguous(problem: Callable) -> None:
    case = problem(30, 16, 16, 3, 2)
    x_TD, w_up = case.x_TD.T.contiguous().T, case.w_up.transpose(1, 2).contiguous().transpose(1, 2)
    expected = ops.planned_experts(case.x_TD, *case.plan(), case.w_up, case.w_down, None)
    assert torch.equal(ops.planned_experts(x_TD, *case.plan(), w_up, case.w_down, None), expected)


def test_types_that_differ_are_refused(problem: Callable) -> None:
    case = problem(4, 16, 16, 3, 2)
    with pytest.raises(ValueError, match=r"w_up torch\.bfloat16"):
        ops.planned_experts(case.x_TD, *case.plan(), case.w_up.bfloat16(), case.w_down, None)


@pytest.mark.parametrize("capacity", [None, 0, 11, 100])
def test_routing_and_planning_agree_with_torch(problem: Callable, device: str, capacity: int | None) -> None:
    case, bias_E, prices_E = problem(77, 24, 4, 5, 2, skew=0.3), torch.rand(5), torch.rand(5)
    by_torch = ops.route_and_plan(case.x_TD.cpu().double(), case.gate_DE.cpu().double(), bias_E, prices_E, 2, capacity)
    by_triton = layer.routed(case.x_TD, case.gate_DE, bias_E.to(device), prices_E.to(device), 2, capacity)
    for ours, theirs in zip(by_triton, by_torch, strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours.cpu().double(), theirs.double(), rtol=1e-5, atol=1e-6)
        assert ours.is_floating_point() == theirs.is_floating_point()


def test_routing_no_tokens(problem: Callable) -> None:
    case = problem(0, 8, 4, 3, 2)
    assert [tuple(t.shape) for t in layer.routed(case.x_TD, case.gate_DE, None, None, 2, 4)] == [
        *((0, 3), (0, 2), (0, 2), (0, 2), (3,))
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="chooses by device")
def test_training_takes_torch_and_serving_triton(problem: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    case, calls = problem(20, 16, 16, 3, 2), []
    original = ops.planned_experts
    monkeypatch.setattr(ops, "planned_experts", lambda *a: calls.append(1) or original(*a))
    arguments = case.plan()
    case.x_TD.requires_grad_()
    with torch.no_grad():
        served = ops.moe_experts(case.x_TD, *arguments, case.w_up, case.w_down, capacity=None)
    trained = ops.moe_experts(case.x_TD, *arguments, case.w_up, case.w_down, capacity=None)
    assert len(calls) == 1
    assert torch.allclose(served, trained, rtol=1e-4, atol=1e-5)
