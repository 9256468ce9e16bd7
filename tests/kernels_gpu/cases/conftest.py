"""What the cases of the kernels share.

They run in a process of their own, in the interpreter (TRITON_INTERPRET=1) or on a GPU (KERNELS_ON_GPU=1).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor

from kernels import ops, reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OWN_PROCESS = INTERPRETED or os.environ.get("KERNELS_ON_GPU") == "1"
collect_ignore_glob = [] if OWN_PROCESS else ["test_*.py"]
if OWN_PROCESS:
    os.environ["KERNELS_CHECKED"] = "1"  # read by `kernels.gpu.plan` at import
    # On a GPU every new shape is a compilation, in the interpreter every case costs a tenth of a second.
    settings.register_profile("kernels", max_examples=8 if INTERPRETED else 5, deadline=None, derandomize=True)
    settings.load_profile("kernels")


@pytest.fixture(scope="session")
def device() -> str:
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(scope="session")
def bfloat16_error() -> float:
    """Relative norm error allowed in bfloat16. The interpreter cuts digits off where a GPU rounds to nearest."""
    return 1.2e-2 if INTERPRETED else 5e-3


@pytest.fixture(scope="session", autouse=True)
def poisoned() -> Iterator[None]:
    """Uninitialised memory holds NaN and the largest integers: what reads it by mistake is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@dataclass
class Problem:
    """A layer and its routing by plain top-k of float64 scores."""

    x_TD: Tensor
    gate_DE: Tensor
    w_up: Tensor
    w_down: Tensor
    ids_TK: Tensor
    gates_TK: Tensor

    def plan(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids, gates, ranks and loads, as the router hands them to the kernels."""
        rank_TK, load_E = ops.rank_slots(self.ids_TK.cpu(), self.w_up.shape[0])
        return self.ids_TK, self.gates_TK, rank_TK.to(self.ids_TK.device), load_E.to(self.ids_TK.device)

    def expected(self) -> Tensor:
        """The definition in float64, on the CPU."""
        floats = [t.double().cpu() for t in (self.gates_TK, self.w_up, self.w_down)]
        return reference.moe_experts(self.x_TD.double().cpu(), self.ids_TK.cpu(), *floats)

    def error(self, actual: Tensor) -> float:
        """Norm of the difference from the definition over the norm of what is summed (sums may cancel)."""
        slots = torch.arange(self.ids_TK.shape[1], device=self.ids_TK.device)
        parts = [replace(self, ids_TK=torch.where(slots == j, self.ids_TK, -1)).expected() for j in slots]
        scale = torch.stack(parts).norm().clamp_min(1e-30)
        return float((actual.double().cpu() - self.expected()).norm() / scale)


@pytest.fixture(scope="session")
def problem(device: str) -> Callable[..., Problem]:
    def make(tokens: int, width: int, hidden: int, experts: int, k: int, *, seed: int = 0, skew: float = 0.0,
             dtype: torch.dtype = torch.float32) -> Problem:  # fmt: skip
        draws = torch.Generator().manual_seed(seed)
        x_TD = torch.randn(tokens, width, generator=draws).to(dtype)
        x_TD[:, 0] = 1  # lets the gate prefer low expert numbers, by `skew` each
        gate_DE = torch.randn(width, experts, generator=draws) / width**0.5
        gate_DE[0] -= skew * torch.arange(experts)
        gate_DE = gate_DE.to(dtype)
        scores_TE = reference.gate_scores(x_TD.double(), gate_DE.double())
        ids_TK = scores_TE.topk(k, dim=1).indices
        w_up = (torch.randn(experts, width, 2 * hidden, generator=draws) / width**0.5).to(dtype)
        w_down = (torch.randn(experts, hidden, width, generator=draws) / hidden**0.5).to(dtype)
        gates_TK = ops.normalised_gates(scores_TE, ids_TK).float()
        return Problem(*(t.to(device) for t in (x_TD, gate_DE, w_up, w_down, ids_TK, gates_TK)))

    return make


@pytest.fixture(scope="session")
def optimum() -> Callable[[Tensor, Tensor, int], float]:
    """The most that k distinct experts per token keep within the capacities (each token may be given fewer).

    The policy `price` on the CPU keeps as much.
    """
    optimize, sparse = pytest.importorskip("scipy.optimize"), pytest.importorskip("scipy.sparse")

    def most_kept(scores_TE: Tensor, capacity_E: Tensor, k: int) -> float:
        tokens, experts = scores_TE.shape
        per_token = sparse.kron(sparse.eye(tokens), np.ones((1, experts)))
        per_expert = sparse.kron(np.ones((1, tokens)), sparse.eye(experts))
        limits = np.concatenate([np.full(tokens, float(k)), capacity_E.double().numpy()])
        cost = -scores_TE.double().numpy().reshape(-1)
        return -float(optimize.linprog(cost, sparse.vstack([per_token, per_expert]), limits, bounds=(0, 1)).fun)

    return most_kept
