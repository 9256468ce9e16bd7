"""Scores and choice of a block of tokens, in registers: shared by `route`, `tiny` and `prices`. Not a kernel."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.dot import dot


@triton.jit
def gate_scores(x, gate, token, tokens, D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
                UPCAST: tl.constexpr):  # fmt: skip
    """softmax(x @ gate) of the tokens `token`: (BT, BE) float32, 0 in the padding."""
    expert = tl.arange(0, BE)
    logits = tl.zeros([token.shape[0], BE], tl.float32)
    row = token.to(tl.int64)[:, None] * D
    for d0 in range(0, D, BD):
        d = d0 + tl.arange(0, BD)
        x_tile = tl.load(x + row + d[None, :], mask=(token < tokens)[:, None] & (d < D)[None, :], other=0.0)
        gate_tile = tl.load(gate + d[:, None] * E + expert[None, :], mask=(d < D)[:, None] & (expert < E), other=0.0)
        logits = dot(x_tile, gate_tile, logits, UPCAST)
    logits = tl.where(expert[None, :] < E, logits, float("-inf"))
    weight = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    return weight / tl.sum(weight, axis=1)[:, None]


@triton.jit
def choose(keys, K: tl.constexpr):
    """The K largest keys of each row as an int32 map of `keys`: 0 = best, 1 = second, ...; -1 = not chosen.

    Keys of -inf are never chosen; NaN counts as the lowest finite key, so that k distinct experts are found.
    """
    expert = tl.arange(0, keys.shape[1])[None, :]
    keys = tl.where(keys == keys, keys, -3e38)
    slot = tl.full(keys.shape, -1, tl.int32)
    for j in range(K):
        best, place = tl.max(keys, axis=1, return_indices=True)
        hit = (expert == place[:, None]) & (best > float("-inf"))[:, None]
        slot = tl.where(hit, j, slot)
        keys = tl.where(hit, float("-inf"), keys)
    return slot
