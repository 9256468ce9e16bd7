"""Where every slot is computed: routing in one operation, and the row of each slot in expert order."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from kernels.cpu import library
from kernels.selection import choose, normalised_gates, rank_slots

triton_installed = find_spec("triton") is not None


def triton_serves(x_TD: Tensor) -> bool:
    """Whether the Triton kernels compute this type on this device."""
    return triton_installed and x_TD.is_cuda and x_TD.dtype != torch.float64


def gate_scores(x_TD: Tensor, gate_DE: Tensor) -> Tensor:
    """Softmax over experts of `x @ gate`, in float32 at least (float64 stays float64). Differentiable."""
    logits_TE = x_TD @ gate_DE
    wide = torch.float64 if logits_TE.dtype == torch.float64 else torch.float32
    return torch.softmax(logits_TE, dim=1, dtype=wide)


def check_capacity(capacity: int | None) -> None:
    """Raises ValueError for a negative one."""
    if capacity is not None and capacity < 0:
        raise ValueError(f"capacity must be >= 0 or None, not {capacity}")


def rows_of(slots: int, experts: int, capacity: int | None) -> int:
    """Rows that a layout has: `capacity` for each expert, or one for every slot."""
    return slots if capacity is None else experts * capacity


@torch.library.custom_op("moe::slot_rows", mutates_args=())
def slot_rows(expert_ids_TK: Tensor, rank_TK: Tensor, load_E: Tensor, capacity: int | None) -> Tensor:
    """Row of each slot in expert order, int64; the number of rows where a slot is unused or has no room.

    With a capacity expert e has the rows from `e * capacity`, however many it uses. Without one it has as many rows as
    its load, and they follow each other without gaps.

    Raises:
        ValueError: a negative capacity.
    """
    check_capacity(capacity)
    if library.serves_plans(expert_ids_TK):
        return library.slot_rows(expert_ids_TK, rank_TK, load_E, capacity)
    used_TK, expert_TK = expert_ids_TK >= 0, expert_ids_TK.clamp_min(0)
    if capacity is None:
        slot_TK = (load_E.cumsum(0) - load_E)[expert_TK] + rank_TK
    else:
        used_TK = used_TK & (rank_TK < capacity)
        slot_TK = expert_TK * capacity + rank_TK
    return torch.where(used_TK, slot_TK, rows_of(expert_ids_TK.numel(), load_E.shape[0], capacity)).contiguous()


@slot_rows.register_fake
def _(expert_ids_TK, rank_TK, load_E, capacity):  # type: ignore[no-untyped-def]
    return expert_ids_TK.new_empty(expert_ids_TK.shape)


def token_of_row(slot_TK: Tensor, rows: int) -> Tensor:
    """Inverse of `slot_rows`: the token of each row, (rows,) int64; the number of tokens where a row has none."""
    tokens, k = slot_TK.shape
    token_S = slot_TK.new_full((rows + 1,), tokens)
    token_N = torch.arange(tokens, device=slot_TK.device).repeat_interleave(k)
    return token_S.scatter_(0, slot_TK.reshape(-1), token_N)[:rows]


@torch.library.custom_op("moe::route_and_plan", mutates_args=())
def route_and_plan(
    x_TD: Tensor, gate_DE: Tensor, bias_E: Tensor | None, prices_E: Tensor | None, k: int, capacity: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gate product, scores, choice by `score + bias - price`, drops, gates from the scores alone, ranks and loads.

    Of an expert with more than `capacity` tokens, those that come first keep it. A price of infinity takes an expert
    out of the choice. A slot without an expert has id and rank -1, and the other slots of its token share its weight.

    Returns:
        `scores_TE`, `expert_ids_TK`, `gates_TK`, `rank_TK`, `load_E`; scores and gates are differentiable.

    Raises:
        ValueError: k outside 1..E, a negative capacity, or x and gate that do not fit together.
    """
    if not 1 <= k <= gate_DE.shape[1]:
        raise ValueError(f"k must be in 1..{gate_DE.shape[1]} (the number of experts), not {k}")
    if x_TD.shape[1] != gate_DE.shape[0]:
        raise ValueError(f"x {tuple(x_TD.shape)} and gate {tuple(gate_DE.shape)} must be (T, D) and (D, E)")
    check_capacity(capacity)
    if library.serves(x_TD, gate_DE):
        return library.route(x_TD @ gate_DE, bias_E, prices_E, k, capacity)
    if triton_serves(x_TD):
        from kernels.gpu import layer  # triton only where it is used

        return layer.routed(x_TD, gate_DE, bias_E, prices_E, k, capacity)
    scores_TE = gate_scores(x_TD, gate_DE)
    allowed_E = None if prices_E is None else prices_E < torch.inf
    expert_ids_TK = choose(scores_TE, k, bias_E=bias_E, prices_E=prices_E, allowed_E=allowed_E)
    rank_TK, load_E = rank_slots(expert_ids_TK, gate_DE.shape[1])
    if capacity is not None:
        over_TK = rank_TK >= capacity
        expert_ids_TK = expert_ids_TK.masked_fill(over_TK, -1)
        rank_TK, load_E = rank_TK.masked_fill(over_TK, -1), load_E.clamp_max(capacity)
    return scores_TE, expert_ids_TK, normalised_gates(scores_TE, expert_ids_TK), rank_TK, load_E


@route_and_plan.register_fake
def _(x_TD, gate_DE, bias_E, prices_E, k, capacity):  # type: ignore[no-untyped-def]
    wide = torch.float64 if x_TD.dtype == torch.float64 else torch.float32
    (tokens, _), experts = x_TD.shape, gate_DE.shape[1]
    ids_TK = x_TD.new_empty((tokens, k), dtype=torch.int64)
    scores_TE, gates_TK = x_TD.new_empty((tokens, experts), dtype=wide), x_TD.new_empty((tokens, k), dtype=wide)
    return scores_TE, ids_TK, gates_TK, torch.empty_like(ids_TK), ids_TK.new_empty(experts)


def _remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:2], *output[:3])
    ctx.mark_non_differentiable(output[1], *output[3:])


def _gradients(ctx, dscores_TE, _ids, dgates_TK, _rank, _load):  # type: ignore[no-untyped-def]
    """Through the normalisation of the gates, the softmax and the product, in the type of the scores."""
    x_TD, gate_DE, scores_TE, ids_TK, gates_TK = ctx.saved_tensors
    used_TK, expert_TK = ids_TK >= 0, ids_TK.clamp_min(0)
    sum_T1 = (scores_TE.gather(1, expert_TK) * used_TK).sum(1, keepdim=True).clamp_min(1e-30)
    dchosen_TK = (dgates_TK - (dgates_TK * gates_TK).sum(1, keepdim=True)) / sum_T1 * used_TK
    dscores_TE = dscores_TE.scatter_add(1, expert_TK, dchosen_TK)
    dlogits_TE = scores_TE * (dscores_TE - (dscores_TE * scores_TE).sum(1, keepdim=True))
    dlogits_TE = dlogits_TE.to(x_TD.dtype)
    return dlogits_TE @ gate_DE.T, x_TD.T @ dlogits_TE, None, None, None, None


route_and_plan.register_autograd(_gradients, setup_context=_remember)
