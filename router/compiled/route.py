"""One batch under `price`, in compiled loops from wishes to plan."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from kernels.ops import normalised_gates
from router import sweeps as method
from router.compiled import available
from router.compiled.chains import WORK_MAX, settle
from router.compiled.fill import fill
from router.compiled.holding import hold
from router.compiled.sweeps import name, reach, sweep, transpose, wish
from router.shapes import RoutingPlan

if available:
    import numpy as np
    from numpy.typing import NDArray

NEAR = 6  # tokens that may move per slot over capacity, to begin with


def route(scores_TE: Tensor, choice_TE: Tensor, capacity_E: Tensor, k: int, start_E: Tensor) -> RoutingPlan:
    """The optimal assignment of a batch on the CPU, with the prices that prove it.

    Args:
        scores_TE: gate scores; the gates are differentiable in them.
        choice_TE: what choices are made by.
        capacity_E: slots per expert.
        k: slots per token.
        start_E: prices to start from.
    """
    (tokens, experts), choice = choice_TE.shape, choice_TE.contiguous().numpy()
    value_ET, best_JT = np.empty((experts, tokens), choice.dtype), np.empty((k + 1, tokens), choice.dtype)
    wish_KT, demand_E = np.empty((k, tokens), np.int32), np.empty(experts, np.int64)
    wish(choice, value_ET, best_JT[:k], wish_KT, demand_E)
    slots_E, prices_E = capacity_E.numpy(), np.zeros(experts)
    held_KT, alive_A, unproved = wish_KT, np.arange(experts), 0.0
    if (demand_E > slots_E).any():
        alive_A = slots_E.nonzero()[0]
        start = start_E.numpy()
        if len(alive_A) < experts:
            value_ET, start = value_ET[alive_A], start[alive_A]
        held_KT = np.full((min(k, len(alive_A)), tokens), -1, np.int32)
        if len(alive_A):
            value_TA = choice if len(alive_A) == experts else np.ascontiguousarray(choice[:, alive_A])
            slots_A = np.minimum(slots_E[alive_A], tokens)
            prices_E[alive_A], unproved = _solve(
                value_TA, value_ET, slots_A, held_KT, best_JT[: len(held_KT) + 1], start.astype(choice.dtype)
            )
    return _plan(scores_TE, choice, alive_A, wish_KT, held_KT, prices_E, unproved, capacity_E)


def _solve(
    value_TA: NDArray[np.floating],
    value_AT: NDArray[np.floating],
    slots_A: NDArray[np.int64],
    held_KT: NDArray[np.int32],
    best_JT: NDArray[np.floating],
    price_A: NDArray[np.floating],
) -> tuple[NDArray[np.float64], float]:
    """Fills `held_KT`. Returns the prices, and how far the value may be from the optimum."""
    (k, tokens), slots = held_KT.shape, int(slots_A.sum())
    short, stride = slots < k * tokens, tokens // method.SAMPLE_TOKENS
    settings = (method.ALONE, method.FAR_SHARE, method.LEAST_SHARE, method.DAMPING, *method.ALONE_STEPS)
    margin_T = np.empty_like(best_JT[0])
    if stride > 1 and sweep(
        value_TA, 1, value_AT, slots_A, short, price_A, best_JT, margin_T, 0, *settings, method.ENOUGH_SHARE
    ) > method.FAR_SHARE:  # fmt: skip
        sample_AT = np.empty((len(slots_A), -(-tokens // stride)), value_AT.dtype)
        transpose(value_TA, stride, sample_AT)
        part_A = np.maximum(1, np.rint(slots_A * (sample_AT.shape[1] / tokens))).astype(np.int64)
        best = np.empty((k + 1, sample_AT.shape[1]), value_AT.dtype)
        sweep(
            value_TA, stride, sample_AT, part_A, short, price_A, best, best[0].copy(),
            method.SAMPLE_SWEEPS, *settings, method.SAMPLE_ENOUGH_SHARE,
        )  # fmt: skip
    sweep(
        value_TA, 1, value_AT, slots_A, short, price_A, best_JT, margin_T, method.SWEEPS, *settings, method.ENOUGH_SHARE
    )
    load_A, exact_A = np.empty(len(slots_A), np.int64), price_A.astype(np.float64)
    name(value_AT, price_A, best_JT, held_KT)
    over = hold(value_AT, slots_A, short, price_A, best_JT, held_KT, load_A)
    near = reach(margin_T, min(tokens, NEAR * (over + 8)), margin_T.dtype.type(0.01))
    _, unproved = settle(
        value_TA, slots_A, short, slots == k * tokens, exact_A, held_KT, load_A, margin_T,
        value_AT.dtype.type(near), WORK_MAX,
    )  # fmt: skip
    return exact_A, unproved


def _plan(
    scores_TE: Tensor,
    choice_TE: NDArray[np.floating],
    alive_A: NDArray[np.int64],
    wish_KT: NDArray[np.int32],
    held_KT: NDArray[np.int32],
    prices_E: NDArray[np.float64],
    unproved: float,
    capacity_E: Tensor,
) -> RoutingPlan:
    (tokens, experts), k = choice_TE.shape, len(wish_KT)
    wishes_TK, ids_TK, rank_TK = (torch.empty(tokens, k, dtype=torch.int64) for _ in range(3))
    gates_TK, redirected_TK = torch.empty(tokens, k, dtype=scores_TE.dtype), torch.empty(tokens, k, dtype=torch.bool)
    demand_E, load_E = torch.empty(experts, dtype=torch.int64), torch.empty(experts, dtype=torch.int64)
    plan = (wishes_TK, ids_TK, gates_TK, rank_TK, redirected_TK, demand_E, load_E)
    wished, kept = fill(
        scores_TE.detach().contiguous().numpy(), choice_TE, alive_A, wish_KT, held_KT, *(part.numpy() for part in plan)
    )
    if scores_TE.requires_grad and torch.is_grad_enabled():
        gates_TK = normalised_gates(scores_TE, ids_TK)
    return RoutingPlan(
        wishes_TK=wishes_TK,
        expert_ids_TK=ids_TK,
        gates_TK=gates_TK,
        rank_TK=rank_TK,
        demand_E=demand_E,
        load_E=load_E,
        prices_E=torch.from_numpy(prices_E.astype(np.float32)),
        redirected_TK=redirected_TK,
        score_kept=torch.tensor(kept / wished if wished > 0 else 1.0, dtype=scores_TE.dtype),
        certified_gap=torch.tensor(unproved / (kept + unproved) if kept > 0 else 0.0, dtype=scores_TE.dtype),
        capacity_E=capacity_E,
    )


@cache
def prepare() -> None:
    """Compile for float32 now, not inside a request: seconds the first time on a machine, then tens of milliseconds."""
    if available:
        scores_TE = torch.rand(2 * method.SAMPLE_TOKENS, 4, generator=torch.Generator().manual_seed(0))
        route(scores_TE, scores_TE, torch.full((4,), 1 + len(scores_TE) // 2), 2, torch.zeros(4))
