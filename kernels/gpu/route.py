"""Routing: gate product, softmax, the k best experts by `score + bias - price`, gates, ranks inside a block.

Grid: one program per `BT` tokens. Reads x (T, D) and gate (D, E), or finished scores (T, E); writes `ids_TK`,
`gates_TK`, `rank_TK`, `counts_BE` and, if wanted, `scores_TE`.
Bytes: T*D*itemsize + blocks*D*E*itemsize (from cache) in, 12*T*K + 4*blocks*E (+ 4*T*E) out.
The k best come from k rounds of maximum and mask: with few experts cheaper than any sort, and ties go to the lower
expert. Ranks come from a running sum over the tokens of the block: no atomics, the same bits every time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import tiles
from kernels.gpu.choice import choose, gate_scores
from kernels.gpu.dot import power_of_two, upcast


class Routes(NamedTuple):
    """What `plan` needs: B blocks of `block` tokens each.

    Attributes:
        ids_TK: expert of each slot, int32, best first; -1 = slot not used.
        gates_TK: scores of the chosen experts over their sum, float32.
        rank_TK: how many slots of the same expert come before this one *in the block*, int32; -1 where not used.
        counts_BE: slots per block and expert, int32.
        scores_TE: softmax scores, float32, or None.
        block: tokens per block.
    """

    ids_TK: Tensor
    gates_TK: Tensor
    rank_TK: Tensor
    counts_BE: Tensor
    scores_TE: Tensor | None
    block: int


@triton.jit
def _route(x, gate, scores, bias, prices, held, ids, gates, rank, counts, tokens,
           D: tl.constexpr, E: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
           FROM_SCORES: tl.constexpr, STORE_SCORES: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_PRICES: tl.constexpr,
           HAS_HELD: tl.constexpr, UPCAST: tl.constexpr):  # fmt: skip
    token = tl.program_id(0) * BT + tl.arange(0, BT)
    expert = tl.arange(0, BE)
    inside = (token < tokens)[:, None] & (expert < E)[None, :]
    place = token.to(tl.int64)[:, None] * E + expert[None, :]
    if FROM_SCORES:
        score = tl.load(scores + place, mask=inside, other=0.0)
    else:
        score = gate_scores(x, gate, token, tokens, D, E, BD, BE, UPCAST)
        if STORE_SCORES:
            tl.store(scores + place, score, mask=inside)
    keys = score
    if HAS_BIAS:
        keys += tl.load(bias + expert, mask=expert < E, other=0.0)[None, :]
    if HAS_PRICES:
        keys -= tl.load(prices + expert, mask=expert < E, other=0.0)[None, :]
    if HAS_HELD:
        has = tl.load(held + token, mask=token < tokens, other=0)
        inside = inside & (((has[:, None] >> expert[None, :].to(tl.int64)) & 1) == 1)
    slot = choose(tl.where(inside, keys, float("-inf")), K)
    chosen = slot >= 0
    weight = tl.where(chosen, score + 1e-30, 0.0)  # the tiny term: equal gates where all scores are 0
    weight = weight / tl.maximum(tl.sum(weight, axis=1), 1e-30)[:, None]
    count = chosen.to(tl.int32)
    before = tl.cumsum(count, axis=0) - count
    out = token.to(tl.int64)[:, None] * K + slot
    tl.store(ids + out, tl.broadcast_to(expert[None, :], [BT, BE]), mask=chosen)
    tl.store(gates + out, weight, mask=chosen)
    tl.store(rank + out, before, mask=chosen)
    tl.store(counts + tl.program_id(0) * E + expert, tl.sum(count, axis=0), mask=expert < E)
    used = tl.sum(count, axis=1)
    for j in range(K):  # a token with fewer than K experts to choose from
        unused = (token < tokens) & (used <= j)
        tl.store(ids + token.to(tl.int64) * K + j, -1, mask=unused)
        tl.store(gates + token.to(tl.int64) * K + j, 0.0, mask=unused)
        tl.store(rank + token.to(tl.int64) * K + j, -1, mask=unused)


def route(
    x_TD: Tensor | None,
    gate_DE: Tensor | None,
    k: int,
    *,
    scores_TE: Tensor | None = None,
    bias_E: Tensor | None = None,
    prices_E: Tensor | None = None,
    held_T: Tensor | None = None,
    keep_scores: bool = False,
) -> Routes:
    """Route by the gate product of `x_TD` and `gate_DE`, or by finished `scores_TE` (float32).

    A price of inf takes an expert out of the choice; with `held_T` (int64, of `assign`) only those whose bit is set
    are in it. `bias_E` and `prices_E` are float32. All contiguous.

    Raises:
        ValueError: neither scores nor both of x and gate.
    """
    if scores_TE is not None:
        source, width, experts = scores_TE, 16, scores_TE.shape[1]
    elif x_TD is not None and gate_DE is not None:
        source, (width, experts) = x_TD, gate_DE.shape
    else:
        raise ValueError("route needs scores_TE, or both x_TD and gate_DE")
    tokens, new = source.shape[0], source.new_empty
    columns = power_of_two(experts)
    block = tiles.tokens_per_block(tokens, columns)
    blocks = triton.cdiv(tokens, block)
    from_scores = scores_TE is not None
    if keep_scores and not from_scores:
        scores_TE = new(tokens, experts, dtype=torch.float32)
    made = Routes(new(tokens, k, dtype=torch.int32), new(tokens, k, dtype=torch.float32),
                  new(tokens, k, dtype=torch.int32), new(blocks, experts, dtype=torch.int32),
                  scores_TE, block)  # fmt: skip
    if tokens:
        _route[(blocks,)](
            x_TD, gate_DE, scores_TE, bias_E, prices_E, held_T, *made[:4], tokens,
            D=width, E=experts, K=k, BT=block, BD=min(64, power_of_two(width)), BE=columns,
            FROM_SCORES=from_scores, STORE_SCORES=keep_scores, HAS_BIAS=bias_E is not None,
            HAS_PRICES=prices_E is not None, HAS_HELD=held_T is not None, UPCAST=upcast(source.dtype),
            num_warps=tiles.warps_of(block * columns), num_stages=3,
        )  # fmt: skip
    return made
