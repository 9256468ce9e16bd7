"""A layer with its definition. Uninitialised memory holds NaN, and both forms are tested: torch and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kernels import ops, reference
from kernels.cpu import library


@pytest.fixture(scope="session", autouse=True)
def poisoned() -> Iterator[None]:
    """What reads memory before it is written is seen: NaN and the largest integers stand there."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session", params=["torch", "compiled"])
def in_form(request: pytest.FixtureRequest) -> Callable[[], AbstractContextManager[None]]:
    """`with in_form():` runs what is inside by torch, or by the compiled kernels where they can be had."""
    if request.param == "compiled":
        try:
            library.build()
        except RuntimeError as error:
            pytest.skip(str(error))
        library._library.cache_clear()
        if library._library() is None:
            pytest.skip("the compiled kernels need Linux and a processor with AVX-512 and its bfloat16")
        return nullcontext
    return library.torch_alone


@dataclass
class Layer:
    """Tokens, a routing by plain top-k of random scores, and weights."""

    x_TD: Tensor
    ids_TK: Tensor
    gates_TK: Tensor
    w_up: Tensor
    w_down: Tensor

    def plan(self) -> tuple[Tensor, Tensor]:
        """Ranks and loads."""
        return ops.rank_slots(self.ids_TK, self.w_up.shape[0])

    def run(self, capacity: int | None) -> Tensor:
        rank_TK, load_E = self.plan()
        return ops.moe_experts(
            self.x_TD, self.ids_TK, self.gates_TK, rank_TK, load_E, self.w_up, self.w_down, capacity=capacity
        )

    def capacity(self, form: str, slack: int = 0) -> int | None:
        """Rows per expert that drop nothing in the static form, None in the dropless one."""
        return int(self.plan()[1].max()) + slack if form == "static" else None

    def reference(self) -> Tensor:
        """The definition in float64."""
        parts = [t.double() for t in (self.gates_TK, self.w_up, self.w_down)]
        return reference.moe_experts(self.x_TD.double(), self.ids_TK, *parts)

    def scale(self) -> float:
        """Norm of the layer with every number positive: the measure of an error where the sums themselves cancel."""
        parts = [t.double().abs() for t in (self.x_TD, self.gates_TK, self.w_up, self.w_down)]
        return float(reference.moe_experts(parts[0], self.ids_TK, *parts[1:]).norm())

    def floats(self) -> list[Tensor]:
        """What the layer is differentiable in, asking for gradients from now on."""
        return [t.requires_grad_() for t in (self.x_TD, self.gates_TK, self.w_up, self.w_down)]


@pytest.fixture(scope="session")
def make_layer() -> Callable[..., Layer]:
    def make(
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
        gates_TK = ops.normalised_gates(scores_TE, ids_TK)
        return Layer(
            torch.randn(tokens, width, generator=draws).to(dtype),
            ids_TK,
            gates_TK.double() if dtype == torch.float64 else gates_TK,
            (torch.randn(experts, width, 2 * hidden, generator=draws) / width**0.5).to(dtype),
            (torch.randn(experts, hidden, width, generator=draws) / hidden**0.5).to(dtype),
        )

    return make


@pytest.fixture(scope="session")
def relative() -> Callable[[Tensor, Tensor], float]:
    """Norm of the difference over the norm of what was expected."""
    return lambda actual, expected: float((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30))
