"""From rows in expert order back to tokens: the weighted sum over the slots of each token, always in slot order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.cpu import library
from kernels.plan import token_of_row


@torch.library.custom_op("moe::combine", mutates_args=())
def combine(y_SD: Tensor, slot_TK: Tensor, gates_TK: Tensor) -> Tensor:
    """`out_TD[t] = sum over k of gates[t, k] * y[slot[t, k]]`. Differentiable in y and in the gates.

    The last row of y is zeros; slots that are not used point there, and their gates may hold anything.
    """
    if library.serves(y_SD):
        return library.combine(y_SD, slot_TK, gates_TK)
    if not slot_TK.numel():
        return y_SD.new_zeros(slot_TK.shape[0], y_SD.shape[1])
    gates_TK = gates_TK.masked_fill(slot_TK == y_SD.shape[0] - 1, 0)
    if y_SD.dtype == torch.bfloat16:
        return torch.einsum("tk,tkd->td", gates_TK.float(), y_SD[slot_TK].float()).bfloat16()
    return F.embedding_bag(slot_TK, y_SD, per_sample_weights=gates_TK.to(y_SD.dtype), mode="sum")


@combine.register_fake
def _(y_SD, slot_TK, gates_TK):  # type: ignore[no-untyped-def]
    return y_SD.new_empty(slot_TK.shape[0], y_SD.shape[1])


@torch.library.custom_op("moe::combine_backward", mutates_args=())
def combine_backward(dy_TD: Tensor, y_SD: Tensor, slot_TK: Tensor, gates_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `combine` for y and the gates."""
    rows, tokens = y_SD.shape[0] - 1, slot_TK.shape[0]
    if not slot_TK.numel():
        return torch.zeros_like(y_SD), torch.zeros_like(gates_TK)
    token_S = token_of_row(slot_TK, rows)
    gate_S = gates_TK.new_zeros(rows + 1).scatter_(0, slot_TK.reshape(-1), gates_TK.reshape(-1))[:rows]
    dy_SD = torch.zeros_like(y_SD)
    torch.index_select(dy_TD, 0, token_S.clamp_max(tokens - 1), out=dy_SD[:rows])
    dy_SD[:rows].mul_(gate_S[:, None]).masked_fill_((token_S == tokens)[:, None], 0)
    dgates_TK = torch.einsum("tkd,td->tk", y_SD[slot_TK], dy_TD).masked_fill(slot_TK == rows, 0)
    return dy_SD, dgates_TK.to(gates_TK.dtype)


@combine_backward.register_fake
def _(dy_TD, y_SD, slot_TK, gates_TK):  # type: ignore[no-untyped-def]
    return torch.empty_like(y_SD), torch.empty_like(gates_TK)


def _remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _gradients(ctx, dy_TD):  # type: ignore[no-untyped-def]
    dy_SD, dgates_TK = combine_backward(dy_TD.contiguous(), *ctx.saved_tensors)
    return dy_SD, None, dgates_TK


combine.register_autograd(_gradients, setup_context=_remember)
