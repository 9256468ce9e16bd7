"""SwiGLU experts over rows in expert order: static slots, or as many rows as each expert was given (dropless).

Compiled for the processor where `kernels.cpu` serves, else in torch: neighbouring experts with equally many rows are
multiplied in one batched product, as many at a time as keep the hidden activations in the second-level cache.
The backward pass, torch everywhere, recomputes the hidden activations instead of keeping them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.combine import combine
from kernels.cpu import library
from kernels.plan import check_capacity, rows_of, token_of_row
from kernels.workspace import Workspace

HIDDEN_BYTES_IN_CACHE = 1 << 20
FEW_ROWS = 64
"""Rows per expert up to which one grouped call is faster than a product per expert (measured, float32, one thread)."""
_scratch = Workspace()


@torch.library.custom_op("moe::expert_ffn", mutates_args=())
def expert_ffn(
    x_TD: Tensor, slot_TK: Tensor, load_E: Tensor, w_up_ED2H: Tensor, w_down_EHD: Tensor, capacity: int | None
) -> Tensor:
    """The expert of each row applied to the token of that row, (rows + 1, D) in the order of `slot_rows`.

    Rows that no slot names are zeros, so is the last one: slots that are not used point there. Differentiable in x and
    in the weights.

    Args:
        x_TD: tokens; those without a used slot are not read.
        slot_TK: from `slot_rows` with the same capacity.
        load_E: slots per expert; the static form reads no value of it in torch.
        w_up_ED2H: gate and value halves side by side.
        w_down_EHD: back to the width of the model.
        capacity: rows per expert for static slots, None = dropless.

    Raises:
        ValueError: a negative capacity; on a CPU, tensors that do not fit together.
    """
    check_capacity(capacity)
    if library.serves(x_TD, w_up_ED2H, w_down_EHD):
        return library.experts(x_TD, slot_TK, load_E, w_up_ED2H, w_down_EHD, capacity)
    total, width = rows_of(slot_TK.numel(), load_E.shape[0], capacity), x_TD.shape[1]
    y_SD = x_TD.new_empty(total + 1, width)
    y_SD[total] = 0
    if total and x_TD.shape[0]:
        x_SD = _gathered(x_TD, slot_TK, total, "x")
        if capacity is None:
            _dropless(x_SD, load_E, w_up_ED2H, w_down_EHD, y_SD)
        else:
            _batched(x_SD, [capacity] * load_E.shape[0], w_up_ED2H, w_down_EHD, y_SD)
        return y_SD
    return y_SD.zero_()


@expert_ffn.register_fake
def _(x_TD, slot_TK, load_E, w_up_ED2H, w_down_EHD, capacity):  # type: ignore[no-untyped-def]
    return x_TD.new_empty(rows_of(slot_TK.numel(), load_E.shape[0], capacity) + 1, x_TD.shape[1])


def _gathered(x_TD: Tensor, slot_TK: Tensor, total: int, name: str) -> Tensor:
    """The token of each row, in scratch memory; zeros where a row has none."""
    tokens, width = x_TD.shape
    token_S = token_of_row(slot_TK, total)
    x_SD = _scratch.take(name, (total, width), x_TD)
    torch.index_select(x_TD, 0, token_S.clamp_max(tokens - 1), out=x_SD)
    return x_SD.masked_fill_((token_S == tokens)[:, None], 0)


def _swiglu(up_NR: Tensor) -> Tensor:
    """In place; bfloat16 is rounded once, after the product."""
    hidden = up_NR.shape[-1] // 2
    gate_NH, value_NH = up_NR[..., :hidden], up_NR[..., hidden:]
    if up_NR.dtype == torch.bfloat16:
        return F.silu(gate_NH.float(), inplace=True).mul_(value_NH).bfloat16()
    return F.silu(gate_NH, inplace=True).mul_(value_NH)


def _dropless(x_SD: Tensor, load_E: Tensor, w_up_ED2H: Tensor, w_down_EHD: Tensor, y_SD: Tensor) -> None:
    load: list[int] = load_E.tolist()
    used = sum(load)
    y_SD[used:] = 0
    widths = x_SD.shape[1] * x_SD.element_size(), w_down_EHD.shape[1] * x_SD.element_size()
    if 0 < used <= FEW_ROWS * len(load) and x_SD.dtype != torch.float64 and not any(w % 16 for w in widths):
        ends_E = load_E.cumsum(0).to(torch.int32)
        up_NR = F.grouped_mm(x_SD[:used], w_up_ED2H, offs=ends_E)
        y_SD[:used] = F.grouped_mm(_swiglu(up_NR).contiguous(), w_down_EHD, offs=ends_E)
    else:
        _batched(x_SD, load, w_up_ED2H, w_down_EHD, y_SD)


def _batched(x_SD: Tensor, rows: list[int], w_up_ED2H: Tensor, w_down_EHD: Tensor, y_SD: Tensor) -> None:
    width = w_up_ED2H.shape[2]
    for experts, span, count in _blocks(rows, width, x_SD.element_size()):
        batch = experts.stop - experts.start
        up_BCR = _scratch.take("up", (batch, count, width), x_SD)
        torch.bmm(x_SD[span].view(batch, count, -1), w_up_ED2H[experts], out=up_BCR)
        torch.bmm(_swiglu(up_BCR), w_down_EHD[experts], out=y_SD[span].view(batch, count, -1))


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


@torch.library.custom_op("moe::expert_ffn_backward", mutates_args=())
def expert_ffn_backward(
    dy_SD: Tensor,
    x_TD: Tensor,
    slot_TK: Tensor,
    load_E: Tensor,
    w_up_ED2H: Tensor,
    w_down_EHD: Tensor,
    capacity: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `expert_ffn` for x, w_up and w_down. Sums by gathering: no atomics, the same bits every time."""
    dw_up_ED2H, dw_down_EHD = torch.zeros_like(w_up_ED2H), torch.zeros_like(w_down_EHD)
    total = dy_SD.shape[0] - 1
    if not total or not x_TD.shape[0]:
        return torch.zeros_like(x_TD), dw_up_ED2H, dw_down_EHD
    rows: list[int] = load_E.tolist() if capacity is None else [capacity] * load_E.shape[0]
    x_SD = _gathered(x_TD, slot_TK, total, "x")
    dx_SD = torch.zeros_like(dy_SD)
    for e, span, count in _blocks(rows, w_up_ED2H.shape[2], x_TD.element_size()):
        shape = (e.stop - e.start, count, -1)
        x_BCD, dy_BCD = x_SD[span].view(shape), dy_SD[span].view(shape)
        a_BCH, b_BCH = torch.bmm(x_BCD, w_up_ED2H[e]).chunk(2, dim=2)
        sigmoid_BCH = a_BCH.sigmoid()
        silu_BCH = a_BCH * sigmoid_BCH
        torch.bmm((silu_BCH * b_BCH).transpose(1, 2), dy_BCD, out=dw_down_EHD[e])
        dh_BCH = torch.bmm(dy_BCD, w_down_EHD[e].transpose(1, 2))
        da_BCH = dh_BCH * b_BCH * (sigmoid_BCH + silu_BCH * (1 - sigmoid_BCH))
        dup_BCR = torch.cat((da_BCH, dh_BCH * silu_BCH), dim=2)
        torch.bmm(x_BCD.transpose(1, 2), dup_BCR, out=dw_up_ED2H[e])
        torch.bmm(dup_BCR, w_up_ED2H[e].transpose(1, 2), out=dx_SD[span].view(shape))
    return combine(dx_SD, slot_TK, torch.ones_like(slot_TK, dtype=torch.float32)), dw_up_ED2H, dw_down_EHD


@expert_ffn_backward.register_fake
def _(dy_SD, x_TD, slot_TK, load_E, w_up_ED2H, w_down_EHD, capacity):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) for t in (x_TD, w_up_ED2H, w_down_EHD))


def _remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.capacity = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, dy_SD):  # type: ignore[no-untyped-def]
    x_TD, slot_TK, load_E, w_up_ED2H, w_down_EHD = ctx.saved_tensors
    dx_TD, dw_up, dw_down = expert_ffn_backward(
        dy_SD.contiguous(), x_TD, slot_TK, load_E, w_up_ED2H, w_down_EHD, ctx.capacity
    )
    return dx_TD, None, None, dw_up, dw_down, None


expert_ffn.register_autograd(_gradients, setup_context=_remember)
