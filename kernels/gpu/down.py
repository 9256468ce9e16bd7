"""Second half of the experts for wide models: GEMM 2.

Grid: (D / BD, tiles of the plan), blocks of the width fastest. Reads hidden (S, H) and `w_down` (E, H, D); writes
y (S, D). Bytes: S*H*itemsize in, S*D*itemsize out, E*H*D*itemsize of weights.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import tiles
from kernels.gpu.dot import dot, upcast
from kernels.gpu.plan import Plan


@triton.jit
def _down(hidden, tiles_m3, w_down, y, D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr,
          BK: tl.constexpr, UPCAST: tl.constexpr):  # fmt: skip
    tile = tl.program_id(1)
    expert = tl.load(tiles_m3 + tile * 3)
    if expert >= 0:
        row = tl.load(tiles_m3 + tile * 3 + 1) + tl.arange(0, BM)
        d = tl.program_id(0) * BD + tl.arange(0, BD)
        there = row < tl.load(tiles_m3 + tile * 3 + 2)
        row = row.to(tl.int64)
        down = w_down + expert.to(tl.int64) * (H * D)
        acc = tl.zeros([BM, BD], tl.float32)
        for h0 in range(0, H, BK):
            h = h0 + tl.arange(0, BK)
            part = tl.load(hidden + row[:, None] * H + h[None, :], mask=there[:, None] & (h < H)[None, :], other=0.0)
            weight = tl.load(down + h[:, None] * D + d[None, :], mask=(h < H)[:, None] & (d < D)[None, :], other=0.0)
            acc = dot(part, weight, acc, UPCAST)
        inside = there[:, None] & (d < D)[None, :]
        tl.store(y + row[:, None] * D + d[None, :], acc.to(y.dtype.element_ty), mask=inside)


def down(hidden_SH: Tensor, plan: Plan, w_down_EHD: Tensor) -> Tensor:
    """`hidden @ w_down[expert]` of every kept row: (S, D) in the order of the plan."""
    hidden, width = w_down_EHD.shape[1:]
    y_SD = torch.empty(hidden_SH.shape[0], width, dtype=hidden_SH.dtype, device=hidden_SH.device)
    if hidden_SH.shape[0]:
        tile = tiles.down(plan.rows, hidden_SH.dtype)
        _down[(triton.cdiv(width, tile.columns), plan.tiles_M3.shape[0])](
            hidden_SH, plan.tiles_M3, w_down_EHD, y_SD, D=width, H=hidden, BM=tile.rows, BD=tile.columns,
            BK=tile.depth, UPCAST=upcast(hidden_SH.dtype), num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return y_SD
