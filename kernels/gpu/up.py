"""First half of the experts for wide models: gather, GEMM 1, SwiGLU.

Grid: (tiles of the plan, H / BH), hidden blocks fastest, so that programs that run together share the gathered rows.
Reads the rows of x (T, D) that the plan names and `w_up` (E, D, 2H); writes hidden (S, H).
Bytes: S*D*itemsize in, S*H*itemsize out, 2*E*D*H*itemsize of weights.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import tiles
from kernels.gpu.dot import dot, upcast
from kernels.gpu.experts import both_halves, swiglu
from kernels.gpu.plan import Plan


@triton.jit
def _up(x, order, tiles_m3, w_up, hidden, D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr,
        BK: tl.constexpr, UPCAST: tl.constexpr):  # fmt: skip
    tile = tl.program_id(1)
    expert = tl.load(tiles_m3 + tile * 3)
    if expert >= 0:
        row = tl.load(tiles_m3 + tile * 3 + 1) + tl.arange(0, BM)
        column, exists = both_halves(tl.program_id(0) * BH, H, BH)
        there = row < tl.load(tiles_m3 + tile * 3 + 2)
        token = tl.load(order + row, mask=there, other=0).to(tl.int64)
        up = w_up + expert.to(tl.int64) * (D * 2 * H)
        both = tl.zeros([BM, 2 * BH], tl.float32)
        for d0 in range(0, D, BK):
            d = d0 + tl.arange(0, BK)
            x_tile = tl.load(x + token[:, None] * D + d[None, :], mask=there[:, None] & (d < D)[None, :], other=0.0)
            weight = tl.load(
                up + d[:, None] * (2 * H) + column[None, :], mask=(d < D)[:, None] & exists[None, :], other=0.0
            )
            both = dot(x_tile, weight, both, UPCAST)
        h = tl.program_id(0) * BH + tl.arange(0, BH)
        out = hidden + row.to(tl.int64)[:, None] * H + h[None, :]
        tl.store(out, swiglu(both).to(hidden.dtype.element_ty), mask=there[:, None] & (h < H)[None, :])


def up(x_TD: Tensor, plan: Plan, w_up_ED2H: Tensor) -> Tensor:
    """`silu(x @ gate half) * (x @ value half)` of every kept row: (S, H) in the order of the plan."""
    width, hidden = x_TD.shape[1], w_up_ED2H.shape[2] // 2
    hidden_SH = torch.empty(plan.token_S.shape[0], hidden, dtype=x_TD.dtype, device=x_TD.device)
    if plan.token_S.shape[0]:
        tile = tiles.up(plan.rows, x_TD.dtype)
        _up[(triton.cdiv(hidden, tile.columns), plan.tiles_M3.shape[0])](
            x_TD, plan.token_S, plan.tiles_M3, w_up_ED2H, hidden_SH, D=width, H=hidden, BM=tile.rows, BH=tile.columns,
            BK=tile.depth, UPCAST=upcast(x_TD.dtype), num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return hidden_SH
