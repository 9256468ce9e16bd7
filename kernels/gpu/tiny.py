"""The whole dropless layer in one launch, for batches so small that launches cost more than products.

Grid: one program per `BT` tokens. Each routes its tokens, then goes over the experts, skips those that none of its
tokens chose, and adds what the others say: no ranks, no order, no intermediates in memory.
Bytes: T*D*itemsize in and out, weights of the experts in use per program (from cache).
Sums over the chosen experts run in the order of expert numbers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import tiles
from kernels.gpu.choice import choose, gate_scores
from kernels.gpu.dot import power_of_two, upcast
from kernels.gpu.experts import ffn


@triton.jit
def _tiny(x, gate, bias, prices, w_up, w_down, out, tokens, D: tl.constexpr, E: tl.constexpr, H: tl.constexpr,
          K: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BH: tl.constexpr,
          HAS_BIAS: tl.constexpr, HAS_PRICES: tl.constexpr, UPCAST: tl.constexpr):  # fmt: skip
    token, expert, d = tl.program_id(0) * BT + tl.arange(0, BT), tl.arange(0, BE), tl.arange(0, BD)
    score = gate_scores(x, gate, token, tokens, D, E, BD, BE, UPCAST)
    keys = score
    if HAS_BIAS:
        keys += tl.load(bias + expert, mask=expert < E, other=0.0)[None, :]
    if HAS_PRICES:
        keys -= tl.load(prices + expert, mask=expert < E, other=0.0)[None, :]
    inside = (token < tokens)[:, None] & (expert < E)[None, :]
    chosen = choose(tl.where(inside, keys, float("-inf")), K) >= 0
    weight = tl.where(chosen, score + 1e-30, 0.0)
    weight = weight / tl.maximum(tl.sum(weight, axis=1), 1e-30)[:, None]
    place = token.to(tl.int64)[:, None] * D + d[None, :]
    inside = (token < tokens)[:, None] & (d < D)[None, :]
    x_tile = tl.load(x + place, mask=inside, other=0.0)
    total = tl.zeros([BT, BD], tl.float32)
    for e in range(E):
        mine = expert[None, :] == e
        picked = tl.max(tl.where(mine & chosen, 1, 0), axis=1)
        if tl.max(picked, axis=0) > 0:
            y = ffn(x_tile, w_up, w_down, e, tl.zeros([BT, BD], tl.float32), D, H, BD, BH, UPCAST)
            share = tl.sum(tl.where(mine, weight, 0.0), axis=1)
            total += tl.where((picked > 0)[:, None], share[:, None] * y, 0.0)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


def tiny(x_TD: Tensor, gate_DE: Tensor, w_up_ED2H: Tensor, w_down_EHD: Tensor, k: int, *, bias_E: Tensor | None = None,
         prices_E: Tensor | None = None) -> Tensor:  # fmt: skip
    """Route and compute the layer without capacity limits: (T, D)."""
    (tokens, width), (experts, hidden, _) = x_TD.shape, w_down_EHD.shape
    out_TD = torch.empty_like(x_TD)
    if tokens:
        tile = tiles.tiny(tokens, width, x_TD.dtype)
        _tiny[(triton.cdiv(tokens, tile.rows),)](
            x_TD, gate_DE, bias_E, prices_E, w_up_ED2H, w_down_EHD, out_TD, tokens, D=width, E=experts, H=hidden, K=k,
            BT=tile.rows, BD=power_of_two(width), BE=power_of_two(experts), BH=tile.columns,
            HAS_BIAS=bias_E is not None, HAS_PRICES=prices_E is not None, UPCAST=upcast(x_TD.dtype),
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out_TD
