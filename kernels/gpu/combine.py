"""Combining: `y_TD[t] = sum over j of gates[t, j] * y_SD[slot[t, j]]`, gathered, summed in slot order.

Grid: (tokens / BT, width / BD). Reads slot, gates (T, K) and the kept rows of y (S, D); writes y (T, D).
Bytes: T*K*(8 + D*itemsize) in, T*D*itemsize out. No atomics, no zero fill: rows that no slot names are not touched.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.dot import power_of_two


@triton.jit
def _combine(y, slot, gates, out, tokens, D: tl.constexpr, K: tl.constexpr, BT: tl.constexpr,
             BD: tl.constexpr):  # fmt: skip
    token = tl.program_id(0) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    total = tl.zeros([BT, BD], tl.float32)
    for j in range(K):
        place = token.to(tl.int64) * K + j
        row = tl.load(slot + place, mask=token < tokens, other=-1)
        used = (row >= 0)[:, None]
        gate = tl.load(gates + place, mask=token < tokens, other=0.0)[:, None]
        part = tl.load(y + row.to(tl.int64)[:, None] * D + d[None, :], mask=used & (d < D)[None, :], other=0.0)
        total += tl.where(used, gate * part.to(tl.float32), 0.0)
    inside = (token < tokens)[:, None] & (d < D)[None, :]
    tl.store(out + token.to(tl.int64)[:, None] * D + d[None, :], total.to(out.dtype.element_ty), mask=inside)


def combine(y_SD: Tensor, slot_TK: Tensor, gates_TK: Tensor) -> Tensor:
    """Weighted sum of each token's rows: (T, D) in the dtype of `y_SD`."""
    (tokens, k), width = slot_TK.shape, y_SD.shape[1]
    out_TD = torch.empty(tokens, width, dtype=y_SD.dtype, device=y_SD.device)
    if tokens:
        columns = min(256, power_of_two(width))
        rows = max(4, 2048 // columns)
        _combine[(triton.cdiv(tokens, rows), triton.cdiv(width, columns))](
            y_SD, slot_TK, gates_TK, out_TD, tokens, D=width, K=k, BT=rows, BD=columns, num_warps=4
        )
    return out_TD
