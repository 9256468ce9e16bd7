"""SwiGLU experts over expert-ordered rows: gather the tokens, two batched products, weighted sum back.

One layout serves both forms. The rows of expert e stand together, `rows[e]` of them: its capacity in the static form (a
constant, so that no value has to be read back from a device), its load in the dropless form. Neighbouring experts
with equally many rows are multiplied in one batched product, as many at a time as keep the hidden activations in
the second-level cache.

The backward pass recomputes the hidden activations instead of keeping them, and sums by gathering: no float atomics,
so two runs give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.workspace import Workspace

HIDDEN_BYTES_IN_CACHE = 1 << 20
_scratch = Workspace()


def slot_rows(expert_ids_TK: Tensor, rank_TK: Tensor, rows: list[int]) -> Tensor:
    """Row of each slot in the expert-ordered layout, int64.

    `sum(rows)` where the slot is unused or beyond its expert's rows.
    """
    starts, total = [], 0
    for count in rows:
        starts.append(total)
        total += count
    starts_E, rows_E = expert_ids_TK.new_tensor(starts), expert_ids_TK.new_tensor(rows)
    expert_TK = expert_ids_TK.clamp_min(0)
    used_TK = (expert_ids_TK >= 0) & (rank_TK < rows_E[expert_TK])
    return torch.where(used_TK, starts_E[expert_TK] + rank_TK, total)


def _token_of_row(slot_TK: Tensor, total: int, empty: int) -> Tensor:
    """Inverse of `slot_rows`: the token of each row, `empty` where a row has none.

    One row more than `total`, for the unused slots.
    """
    tokens, k = slot_TK.shape
    token_S = slot_TK.new_full((total + 1,), empty)
    token_N = torch.arange(tokens, device=slot_TK.device).repeat_interleave(k)
    return token_S.scatter_(0, slot_TK.reshape(-1), token_N)


def _blocks(rows: list[int], width: int, item_bytes: int) -> Iterator[tuple[slice, slice, int]]:
    """Runs of experts with equally many rows: (experts, rows of the layout, rows per expert)."""
    first, start = 0, 0
    while first < len(rows):
        count = rows[first]
        per_expert = max(1, count * width * item_bytes)
        most = max(torch.get_num_threads(), HIDDEN_BYTES_IN_CACHE // per_expert)
        last = first + 1
        while last < len(rows) and last - first < most and rows[last] == count:
            last += 1
        stop = start + (last - first) * count
        if count:
            yield slice(first, last), slice(start, stop), count
        first, start = last, stop


def expert_ffn(x_SD: Tensor, rows: list[int], w_up_ED2H: Tensor, w_down_EHD: Tensor, y_SD: Tensor) -> Tensor:
    """Apply expert e to its `rows[e]` rows of `x_SD`, into `y_SD`. Static slots: all of `rows` equal. No gradient."""
    hidden = w_down_EHD.shape[1]
    for experts, span, count in _blocks(rows, 2 * hidden, x_SD.element_size()):
        batch = experts.stop - experts.start
        up_BC2H = _scratch.take("up", (batch, count, 2 * hidden), x_SD)
        torch.bmm(x_SD[span].view(batch, count, -1), w_up_ED2H[experts], out=up_BC2H)
        gate_BCH = F.silu(up_BC2H[..., :hidden], inplace=True).mul_(up_BC2H[..., hidden:])
        torch.bmm(gate_BCH, w_down_EHD[experts], out=y_SD[span].view(batch, count, -1))
    return y_SD


def combine(y_SD: Tensor, slot_TK: Tensor, gates_TK: Tensor) -> Tensor:
    """`y_TD[t] = sum over k of gates[t, k] * y_SD[slot[t, k]]`, always summed in slot order. No gradient.

    The last row of `y_SD` must be zeros: unused slots point there.
    """
    if slot_TK.numel() == 0:
        return y_SD.new_zeros(slot_TK.shape[0], y_SD.shape[1])
    return F.embedding_bag(slot_TK, y_SD, per_sample_weights=gates_TK.to(y_SD.dtype), mode="sum")


def _unused_to_zero(gates_TK: Tensor, slot_TK: Tensor, total: int) -> Tensor:
    return gates_TK.masked_fill(slot_TK == total, 0)


@torch.library.custom_op("moe::experts", mutates_args=())
def experts(
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    gates_TK: Tensor,
    rank_TK: Tensor,
    rows: list[int],
    w_up_ED2H: Tensor,
    w_down_EHD: Tensor,
) -> Tensor:
    """Experts of every used slot, weighted and summed per token: (T, D)."""
    total, width = sum(rows), x_TD.shape[1]
    if not total or not x_TD.shape[0]:
        return torch.zeros_like(x_TD)
    slot_TK = slot_rows(expert_ids_TK, rank_TK, rows)
    x_SD = _scratch.take("x", (total, width), x_TD)
    torch.index_select(
        x_TD, 0, _token_of_row(slot_TK, total, 0)[:total], out=x_SD
    )  # rows of empty slots are never read back
    y_SD = _scratch.take("y", (total + 1, width), x_TD)
    y_SD[total] = 0
    expert_ffn(x_SD, rows, w_up_ED2H, w_down_EHD, y_SD[:total])
    return combine(y_SD, slot_TK, _unused_to_zero(gates_TK, slot_TK, total))


@experts.register_fake
def _(x_TD, expert_ids_TK, gates_TK, rank_TK, rows, w_up_ED2H, w_down_EHD):  # type: ignore[no-untyped-def]
    return torch.empty_like(x_TD)


@torch.library.custom_op("moe::experts_backward", mutates_args=())
def experts_backward(
    dy_TD: Tensor,
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    gates_TK: Tensor,
    rank_TK: Tensor,
    rows: list[int],
    w_up_ED2H: Tensor,
    w_down_EHD: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `experts` for x, gates, w_up and w_down."""
    dw_up_ED2H, dw_down_EHD = torch.zeros_like(w_up_ED2H), torch.zeros_like(w_down_EHD)
    total, (tokens, width), hidden = sum(rows), x_TD.shape, w_down_EHD.shape[1]
    if not total or not tokens:
        return torch.zeros_like(x_TD), torch.zeros_like(gates_TK), dw_up_ED2H, dw_down_EHD
    slot_TK = slot_rows(expert_ids_TK, rank_TK, rows)
    token_S = _token_of_row(slot_TK, total, tokens)[:total]
    empty_S1 = (token_S == tokens)[:, None]
    token_S = token_S.clamp_max(tokens - 1)
    # Empty rows must be zero here: they enter the sums over rows that make the weights' gradients.
    x_SD = torch.index_select(x_TD, 0, token_S, out=_scratch.take("x", (total, width), x_TD)).masked_fill_(empty_S1, 0)
    dy_SD = torch.index_select(dy_TD, 0, token_S, out=_scratch.take("y", (total, width), x_TD)).masked_fill_(
        empty_S1, 0
    )
    gate_S1 = x_TD.new_zeros(total + 1).scatter_(0, slot_TK.reshape(-1), gates_TK.reshape(-1).to(x_TD.dtype))[
        :total, None
    ]
    dgate_S = x_TD.new_zeros(total + 1)
    dx_SD = x_TD.new_zeros(total + 1, width)
    for e, span, count in _blocks(rows, 2 * hidden, x_TD.element_size()):
        shape = (e.stop - e.start, count, -1)
        x_BCD, dy_BCD, gate_BC1 = x_SD[span].view(shape), dy_SD[span].view(shape), gate_S1[span].view(shape)
        a_BCH, b_BCH = torch.bmm(x_BCD, w_up_ED2H[e]).chunk(2, dim=2)
        sigmoid_BCH = a_BCH.sigmoid()
        silu_BCH = a_BCH * sigmoid_BCH
        h_BCH = silu_BCH * b_BCH
        dh_BCH = torch.bmm(dy_BCD, w_down_EHD[e].transpose(1, 2))
        dgate_S[span] = (h_BCH * dh_BCH).sum(dim=2).view(-1)
        torch.bmm(h_BCH.mul_(gate_BC1).transpose(1, 2), dy_BCD, out=dw_down_EHD[e])
        dh_BCH.mul_(gate_BC1)
        da_BCH = dh_BCH * b_BCH * (sigmoid_BCH + silu_BCH * (1 - sigmoid_BCH))
        dup_BC2H = torch.cat((da_BCH, dh_BCH * silu_BCH), dim=2)
        torch.bmm(x_BCD.transpose(1, 2), dup_BC2H, out=dw_up_ED2H[e])
        torch.bmm(dup_BC2H, w_up_ED2H[e].transpose(1, 2), out=dx_SD[:total][span].view(shape))
    dgates_TK = dgate_S[slot_TK].to(gates_TK.dtype)
    return combine(dx_SD, slot_TK, torch.ones_like(gates_TK)), dgates_TK, dw_up_ED2H, dw_down_EHD


@experts_backward.register_fake
def _(dy_TD, x_TD, expert_ids_TK, gates_TK, rank_TK, rows, w_up_ED2H, w_down_EHD):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) for t in (x_TD, gates_TK, w_up_ED2H, w_down_EHD))


def _remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x_TD, expert_ids_TK, gates_TK, rank_TK, rows, w_up_ED2H, w_down_EHD = inputs
    ctx.rows = rows
    ctx.save_for_backward(x_TD, expert_ids_TK, gates_TK, rank_TK, w_up_ED2H, w_down_EHD)


def _gradients(ctx, dy_TD):  # type: ignore[no-untyped-def]
    x_TD, expert_ids_TK, gates_TK, rank_TK, w_up_ED2H, w_down_EHD = ctx.saved_tensors
    dx_TD, dgates_TK, dw_up, dw_down = experts_backward(
        dy_TD.contiguous(), x_TD, expert_ids_TK, gates_TK, rank_TK, ctx.rows, w_up_ED2H, w_down_EHD
    )
    return dx_TD, None, dgates_TK, None, None, dw_up, dw_down


experts.register_autograd(_gradients, setup_context=_remember)
