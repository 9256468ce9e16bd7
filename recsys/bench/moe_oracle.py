"""The checks without which no speed of the MoE layer is reported: every form against the definition in float64."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from kernels import ops, reference
from kernels.cpu import library

ALLOWED = {torch.float32: 1e-6, torch.bfloat16: 5e-3}
"""Relative norm of the error."""
SLACK = 4.0
"""Rivals are not ours to be strict with; what is meant is that they compute the same layer."""


class OracleError(Exception):
    """A kernel computes something else than its definition."""


def check_oracle() -> None:
    """Sizes and routings that break layers, in both types, static and dropless, compiled and torch; twice each.

    Raises:
        OracleError: naming the case.
    """
    cases = [(0, 16, 24, 4, 2), (25, 16, 24, 2, 2), (37, 40, 33, 5, 2), (300, 64, 128, 8, 2), (200, 32, 48, 6, 1)]
    for (tokens, width, hidden, experts, k), dtype, crowd in product(cases, ALLOWED, (False, True)):
        draws = torch.Generator().manual_seed(tokens + crowd)
        logits_TE = torch.randn(tokens, experts, generator=draws) - 50.0 * crowd * torch.arange(experts)
        ids_TK = logits_TE.topk(k, dim=1).indices
        gates_TK = ops.normalised_gates(logits_TE.softmax(1), ids_TK)
        x_TD = torch.randn(tokens, width, generator=draws).to(dtype)
        up = (torch.randn(experts, width, 2 * hidden, generator=draws) / width**0.5).to(dtype)
        down = (torch.randn(experts, hidden, width, generator=draws) / hidden**0.5).to(dtype)
        expected_TD = _expected(x_TD, ids_TK, gates_TK, up, down)
        if tokens > 1:  # a token without slots may hold anything
            ids_TK[1], x_TD[1], expected_TD[1] = -1, torch.nan, 0
        rank_TK, load_E = ops.rank_slots(ids_TK, experts)
        for capacity, compiled in product((None, int(load_E.max()) + 1), (True, False)):
            name = f"T={tokens} D={width} H={hidden} E={experts} K={k} {dtype} {capacity=} {compiled=} {crowd=}"
            first, second = (_run(x_TD, ids_TK, gates_TK, rank_TK, load_E, up, down, capacity, compiled) for _ in "12")
            if not torch.equal(first, second):
                raise OracleError(f"two runs differ: {name}")
            _compare(first, expected_TD, ALLOWED[dtype], name)


def check_layer(
    y_TD: Tensor, x_TD: Tensor, ids_TK: Tensor, gates_TK: Tensor, up: Tensor, down: Tensor, name: str, ours: bool
) -> None:
    """Hold some tokens of a whole layer to the definition.

    Raises:
        OracleError: they are not what they should be.
    """
    some = torch.linspace(0, len(x_TD) - 1, min(96, len(x_TD))).long()
    expected_TD = _expected(x_TD[some], ids_TK[some], gates_TK[some], up, down)
    _compare(y_TD[some], expected_TD, ALLOWED[x_TD.dtype] * (1 if ours else SLACK), name)


def _expected(x_TD: Tensor, ids_TK: Tensor, gates_TK: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return reference.moe_experts(x_TD.double(), ids_TK, gates_TK.double(), up.double(), down.double())


def _run(*arguments: object) -> Tensor:
    *inputs, capacity, compiled = arguments
    if compiled:
        return ops.moe_experts(*inputs, capacity=capacity)  # type: ignore[arg-type]
    with library.torch_alone():
        return ops.moe_experts(*inputs, capacity=capacity)  # type: ignore[arg-type]


def _compare(actual_TD: Tensor, expected_TD: Tensor, allowed: float, name: str) -> None:
    error = float((actual_TD.double() - expected_TD).norm() / expected_TD.norm().clamp_min(1e-30))
    if not error <= allowed:  # true for NaN too
        raise OracleError(f"error {error:.1e} is more than {allowed:.0e}: {name}")
