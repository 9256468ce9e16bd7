"""Experts in one kernel: gather, GEMM 1, SwiGLU, GEMM 2. Hidden activations never leave the processor.

Grid: one program per tile of the plan; programs of empty tiles end at once. Tiles of one expert are neighbours, so
that programs that run together share its weights in the second-level cache. Reads the rows of x (T, D) that the plan
names, `w_up` (E, D, 2H) with the gate half first, `w_down` (E, H, D); writes y (S, D).
Bytes: S*D*itemsize in, S*D*itemsize out, 3*D*H*itemsize of weights per tile (from cache; 3*E*D*H*itemsize from memory).
The tile's x stays on chip; each step multiplies it by `BH` columns of both halves and adds to a (BM, D) accumulator.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import tiles
from kernels.gpu.dot import dot, power_of_two, upcast
from kernels.gpu.plan import Plan


@triton.jit
def swiglu(both):
    """`silu(gate) * value` in float32, for (rows, 2 * BH) numbers, gates in the left half."""
    halves = tl.reshape(both, [both.shape[0], 2, both.shape[1] // 2])
    gate, value = tl.split(tl.permute(halves, [0, 2, 1]))
    return gate * tl.sigmoid(gate) * value


@triton.jit
def both_halves(h0, H: tl.constexpr, BH: tl.constexpr):
    """Columns h0..h0+BH of the gate half and of the value half of `w_up`, side by side, and which of them exist.

    One product of twice the columns, not two: the tensor cores read the rows of x half as often.
    """
    c = tl.arange(0, 2 * BH)
    return h0 + c + (c // BH) * (H - BH), h0 + c % BH < H


@triton.jit
def ffn(x_tile, w_up, w_down, expert, acc, D: tl.constexpr, H: tl.constexpr, BD: tl.constexpr, BH: tl.constexpr,
        UPCAST: tl.constexpr):  # fmt: skip
    """`acc + swiglu(x @ w_up[expert]) @ w_down[expert]` for the rows of `x_tile`, BH hidden columns at a time."""
    d = tl.arange(0, BD)
    up = w_up + tl.cast(expert, tl.int64) * (D * 2 * H) + d[:, None] * (2 * H)
    down = w_down + tl.cast(expert, tl.int64) * (H * D) + d[None, :]
    zeros = tl.zeros([x_tile.shape[0], 2 * BH], tl.float32)
    for h0 in range(0, H, BH):
        column, there = both_halves(h0, H, BH)
        weight = tl.load(up + column[None, :], mask=(d < D)[:, None] & there[None, :], other=0.0)
        hidden = swiglu(dot(x_tile, weight, zeros, UPCAST)).to(x_tile.dtype)
        h = h0 + tl.arange(0, BH)
        weight = tl.load(down + h[:, None] * D, mask=(h < H)[:, None] & (d < D)[None, :], other=0.0)
        acc = dot(hidden, weight, acc, UPCAST)
    return acc


@triton.jit
def _experts(x, order, tiles_m3, w_up, w_down, y, D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr,
             BD: tl.constexpr, BH: tl.constexpr, UPCAST: tl.constexpr):  # fmt: skip
    tile = tl.program_id(0)
    expert = tl.load(tiles_m3 + tile * 3)
    if expert >= 0:
        row = tl.load(tiles_m3 + tile * 3 + 1) + tl.arange(0, BM)
        d = tl.arange(0, BD)
        there = row < tl.load(tiles_m3 + tile * 3 + 2)
        token = tl.load(order + row, mask=there, other=0).to(tl.int64)
        inside = there[:, None] & (d < D)[None, :]
        x_tile = tl.load(x + token[:, None] * D + d[None, :], mask=inside, other=0.0)
        acc = ffn(x_tile, w_up, w_down, expert, tl.zeros([BM, BD], tl.float32), D, H, BD, BH, UPCAST)
        tl.store(y + row.to(tl.int64)[:, None] * D + d[None, :], acc.to(y.dtype.element_ty), mask=inside)


def experts(x_TD: Tensor, plan: Plan, w_up_ED2H: Tensor, w_down_EHD: Tensor) -> Tensor:
    """Apply its expert to every kept row: (S, D) in the order of the plan; rows past the last kept one are undefined.

    Raises:
        ValueError: where `tiles.fused_serves` says no.
    """
    width, hidden = x_TD.shape[1], w_down_EHD.shape[1]
    if not tiles.fused_serves(width, x_TD.dtype):
        raise ValueError(f"the fused kernel does not serve width {width} in {x_TD.dtype}: take `up` and `down`")
    y_SD = torch.empty(plan.token_S.shape[0], width, dtype=x_TD.dtype, device=x_TD.device)
    if plan.token_S.shape[0]:
        tile = tiles.fused(width, plan.rows, x_TD.dtype)
        _experts[(plan.tiles_M3.shape[0],)](
            x_TD, plan.token_S, plan.tiles_M3, w_up_ED2H, w_down_EHD, y_SD, D=width, H=hidden, BM=tile.rows,
            BD=power_of_two(width), BH=tile.columns, UPCAST=upcast(x_TD.dtype), num_warps=tile.warps,
            num_stages=tile.stages,
        )  # fmt: skip
    return y_SD
