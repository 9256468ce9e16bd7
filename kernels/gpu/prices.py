"""Prices that balance a batch, solved on the device: alternating cut-offs of tokens and quantiles of experts.

Two launches per sweep, `2 * sweeps + 1` in all, no host synchronisation.
`_cut_off`, one program per `BT` tokens: a slot is worth to a token the (k+1)-th largest `score - price`; writes what
each token would pay, `surplus_ET` (transposed: the experts read it in rows), and its part of the dual value in float64.
`_quantile`, one program per expert: the price that `capacity` tokens would pay, by `LEVELS` histograms of `BINS` bins,
each over the bin where the last one crossed the capacity; then an over-relaxed step towards it.
Bytes per sweep: 4*T*E in, 4*T*E out; 4*(LEVELS + 1)*T*E from cache.

For any prices `sum_t [sum of the k largest (score - price)] + sum_e capacity_e * price_e` bounds what any assignment
can keep, so the value returned is a certificate; it is summed in float64. The fixed point is that of the policy
`price` on the CPU. When capacities sum to less than T*k, cut-offs are at least 0 and prices are not shifted.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import tiles
from kernels.gpu.choice import choose
from kernels.gpu.dot import power_of_two

BINS, LEVELS = 256, 3
UP, DOWN = 1.2, 1.8  # relative steps: overshooting up early saves sweeps, room left idle is taken back faster


class Prices(NamedTuple):
    """What `route` needs to fill the capacities.

    Attributes:
        prices_E: float32; inf for experts without capacity.
        floor_1: what `score - price` must exceed: 0 where capacities sum to less than T*k, else -inf.
        bound: what any assignment can keep at most, 0-d float64.
    """

    prices_E: Tensor
    floor_1: Tensor
    bound: Tensor


@triton.jit
def _market(prices, capacity, tokens, E: tl.constexpr, K: tl.constexpr, BE: tl.constexpr):
    """Prices shifted so that the cheapest living expert is free, slots, who lives, and whether slots are short."""
    expert = tl.arange(0, BE)
    slots = tl.minimum(tl.load(capacity + expert, mask=expert < E, other=0).to(tl.int32), tokens)
    alive, short = slots > 0, tl.sum(slots.to(tl.int64), axis=0) < tl.cast(tokens, tl.int64) * K
    price = tl.load(prices + expert, mask=expert < E, other=0.0)
    lowest = tl.min(tl.where(alive, price, float("inf")), axis=0)
    return tl.where(alive, price - tl.where(short, 0.0, lowest), 0.0), slots, alive, short


@triton.jit
def _cut_off(scores, bias, prices, capacity, surplus, dual, final, limit, tokens, E: tl.constexpr, K: tl.constexpr,
             BT: tl.constexpr, BE: tl.constexpr, HAS_BIAS: tl.constexpr, LAST: tl.constexpr):  # fmt: skip
    token, expert = tl.program_id(0) * BT + tl.arange(0, BT), tl.arange(0, BE)
    price, slots, alive, short = _market(prices, capacity, tokens, E, K, BE)
    inside = (token < tokens)[:, None] & alive[None, :]
    value = tl.load(scores + token.to(tl.int64)[:, None] * E + expert[None, :], mask=inside, other=0.0)
    if HAS_BIAS:
        value += tl.load(bias + expert, mask=expert < E, other=0.0)[None, :]
    net = tl.where(inside, value - price[None, :], float("-inf"))
    chosen = choose(net, K) >= 0
    floor = tl.where(short, 0.0, float("-inf"))
    part = tl.sum(tl.sum(tl.where(chosen, tl.maximum(net, floor), 0.0).to(tl.float64), axis=1), axis=0)
    paid = tl.sum((slots.to(tl.float32) * price).to(tl.float64), axis=0)
    tl.store(dual + tl.program_id(0), part + tl.where(tl.program_id(0) == 0, paid, 0.0))
    if LAST:
        tl.store(final + expert, tl.where(alive, price, float("inf")), mask=(expert < E) & (tl.program_id(0) == 0))
        tl.store(limit, floor, mask=tl.program_id(0) == 0)
    else:
        cut = tl.maximum(tl.max(tl.where(chosen, float("-inf"), net), axis=1), floor)
        cut = tl.where(cut == float("-inf"), -1.0, cut)  # every living expert is taken: any price is paid
        place = expert.to(tl.int64)[None, :] * tokens + token[:, None]
        tl.store(surplus + place, value - cut[:, None], mask=inside)


@triton.jit
def _quantile(surplus, prices, capacity, moved, tokens, up, down, E: tl.constexpr, K: tl.constexpr, BT: tl.constexpr,
              BE: tl.constexpr, BINS: tl.constexpr, LEVELS: tl.constexpr):  # fmt: skip
    me = tl.program_id(0)
    price, slots, _alive, _short = _market(prices, capacity, tokens, E, K, BE)
    own = tl.arange(0, BE) == me
    price, slots = tl.sum(tl.where(own, price, 0.0), axis=0), tl.sum(tl.where(own, slots, 0), axis=0)
    if slots == 0:
        tl.store(moved + me, 0.0)
    else:
        row, bins = surplus + me.to(tl.int64) * tokens, tl.arange(0, BINS)
        high, t0 = 0.0, 0
        while t0 < tokens:  # not `range`: the interpreter takes no run-time bounds there
            t = t0 + tl.arange(0, BT)
            high = tl.maximum(high, tl.max(tl.load(row + t, mask=t < tokens, other=0.0), axis=0))
            t0 += BT
        low, high = 0.0, high * 1.000001 + 1e-12  # just above the largest: nobody pays it
        for _level in range(LEVELS):
            width = tl.maximum((high - low) / BINS, 1e-30)
            above, t0, count = 0, 0, tl.zeros([BINS], tl.int32)
            while t0 < tokens:
                t = t0 + tl.arange(0, BT)
                offer = tl.load(row + t, mask=t < tokens, other=-1.0)
                above += tl.sum((offer >= high).to(tl.int32), axis=0)
                between = (offer > low) & (offer < high)
                bin = tl.minimum(((tl.where(between, offer, low) - low) / width).to(tl.int32), BINS - 1)
                count += tl.histogram(bin, BINS, mask=between)
                t0 += BT
            enough = above + tl.sum(count, axis=0) - (tl.cumsum(count, axis=0) - count) <= slots  # who pays bin's floor
            first = tl.min(tl.where(enough, bins, BINS), axis=0)  # lowest bin whose floor is a price that fits
            low, high = low + tl.maximum(first - 1, 0) * width, low + first * width
        step = (high - price) * tl.where(high > price, up, down)
        tl.store(moved + me, tl.maximum(price + step, 0.0))


def solve(
    scores_TE: Tensor,
    capacity_E: Tensor,
    k: int,
    *,
    start_E: Tensor | None = None,
    bias_E: Tensor | None = None,
    sweeps: int = 8,
) -> Prices:
    """Prices by `sweeps` sweeps from `start_E` (default 0). Scores and bias are float32, capacities any integers."""
    (tokens, experts), new, sizes = scores_TE.shape, scores_TE.new_empty, {"E": scores_TE.shape[1], "K": k}
    sizes["BE"] = power_of_two(experts)
    block = tiles.tokens_per_block(tokens, sizes["BE"])
    blocks = triton.cdiv(tokens, block)
    surplus_ET = new(experts, tokens, dtype=torch.float32)
    dual_SB = new(sweeps + 1, blocks, dtype=torch.float64)
    prices_E = new(experts, dtype=torch.float32).zero_() if start_E is None else start_E.float()
    final_E, floor_1 = torch.empty_like(prices_E), new(1, dtype=torch.float32)
    if not tokens:
        return Prices(torch.where(capacity_E > 0, 0.0, torch.inf), floor_1.fill_(-torch.inf), dual_SB.sum())
    for sweep in range(sweeps + 1):
        _cut_off[(blocks,)](
            scores_TE, bias_E, prices_E, capacity_E, surplus_ET, dual_SB[sweep], final_E, floor_1, tokens, **sizes,
            BT=block, HAS_BIAS=bias_E is not None, LAST=sweep == sweeps, num_warps=tiles.warps_of(block * sizes["BE"]),
        )  # fmt: skip
        if sweep < sweeps:
            moved_E = torch.empty_like(prices_E)
            _quantile[(experts,)](
                surplus_ET, prices_E, capacity_E, moved_E, tokens, UP, DOWN, **sizes,
                BT=min(4096, power_of_two(tokens)), BINS=BINS, LEVELS=LEVELS, num_warps=16,
            )  # fmt: skip
            prices_E = moved_E
    return Prices(final_E, floor_1, dual_SB.sum(dim=1).min())
