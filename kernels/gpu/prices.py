"""Prices that balance a batch, solved in one launch: cut-offs of tokens and quantiles of experts, in turn.

Grid: at most one program per processor, all at once (a cooperative grid); each has every `programs`-th block of `BT`
tokens. A slot is worth to a token its score + bias less the token's cut-off, the (k+1)-th largest `value - price`. The
price that fills an expert is the (capacity + 1)-th largest of these surpluses, found digit by digit in histograms that
all programs add to; every program then takes the same over-relaxed step. It ends after `sweeps` sweeps, or as soon as
few slots are over capacity and room is not left idle at a price; where wishes fit, at once and with prices of 0.
Reads scores (T, E); writes `prices_E` and `bound`. Bytes: 4*T*E in, read again from cache `LEVELS` times per sweep;
per sweep `LEVELS` meetings of the programs and as many histograms of 8 KiB, read by each.

For any prices `sum_t [sum of the k largest (value - price)] + sum_e capacity_e * price_e` bounds what any assignment
can keep, so the smallest value seen is a certificate; it is summed in float64. The fixed point is that of the policy
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
from kernels.gpu.together import PRICE_BITS, count_digits, digits, meet, next_digit

UP, DOWN = 1.2, 1.8  # relative steps: overshooting up early saves sweeps, room left idle is taken back faster
OVERFLOW_SHARE, IDLE_SHARE = 0.002, 0.001  # slots over capacity, and score lost to priced but idle room: near enough


class Prices(NamedTuple):
    """Prices, float32, inf for experts without capacity; `bound`, what any assignment can keep at most, 0-d float64."""

    prices_E: Tensor
    bound: Tensor


@triton.jit
def market(capacity, tokens, E: tl.constexpr, K: tl.constexpr, BE: tl.constexpr):
    """Slots per expert (no more than tokens), slots per token, and whether slots are short."""
    expert = tl.arange(0, BE)
    slots = tl.maximum(tl.minimum(tl.load(capacity + expert, mask=expert < E, other=0), tokens), 0).to(tl.int32)
    picks = tl.minimum(tl.sum((slots > 0).to(tl.int32), axis=0), K)
    return slots, picks, tl.sum(slots.to(tl.int64), axis=0) < tl.cast(tokens, tl.int64) * picks


@triton.jit
def values(scores, bias, token, tokens, alive, E: tl.constexpr, BE: tl.constexpr, HAS_BIAS: tl.constexpr):
    """What the living experts are worth to these tokens: score + bias, the bias shifted to at least 0; NaN is 0."""
    expert = tl.arange(0, BE)
    inside = (token < tokens)[:, None] & alive[None, :]
    value = tl.load(scores + token.to(tl.int64)[:, None] * E + expert[None, :], mask=inside, other=0.0)
    value = tl.where(value == value, value, 0.0)
    if HAS_BIAS:
        lowest = tl.min(tl.load(bias + expert, mask=expert < E, other=float("inf")), axis=0)
        value += (tl.load(bias + expert, mask=expert < E, other=0.0) - lowest)[None, :]
    return value, inside


@triton.jit
def _prices(scores, bias, start, capacity, final, bound, cut, extremes, dual, loads, histograms, arrived, real, tokens,
            sweeps, up, down, overflow_share, idle_share, E: tl.constexpr, K: tl.constexpr, BT: tl.constexpr,
            BE: tl.constexpr, BP: tl.constexpr, DIGIT: tl.constexpr, LEVELS: tl.constexpr,
            HAS_BIAS: tl.constexpr, HAS_REAL: tl.constexpr):  # fmt: skip
    tokens = tl.cast(tokens, tl.int32)  # 1 would be a constant
    if HAS_REAL:
        tokens = tl.load(real).to(tl.int32)
    me, programs, expert, p = tl.program_id(0), tl.num_programs(0), tl.arange(0, BE), tl.arange(0, BP)
    slots, picks, short = market(capacity, tokens, E, K, BE)
    alive, floor = slots > 0, tl.where(short, 0.0, float("-inf"))

    # Wishes at prices of 0, and the range of the values.
    low, high, wished = float("inf"), float("-inf"), tl.zeros([BE], tl.int32)
    block = me
    while block * BT < tokens:  # not `range`: the interpreter takes no run-time bounds there
        token = block * BT + tl.arange(0, BT)
        value, inside = values(scores, bias, token, tokens, alive, E, BE, HAS_BIAS)
        low = tl.minimum(low, tl.min(tl.min(tl.where(inside, value, float("inf")), axis=1), axis=0))
        high = tl.maximum(high, tl.max(tl.max(tl.where(inside, value, float("-inf")), axis=1), axis=0))
        chosen = choose(tl.where(inside, value, float("-inf")), K) >= 0
        wished += tl.sum(chosen.to(tl.int32), axis=0)
        block += programs
    tl.store(extremes + me, low)
    tl.store(extremes + programs + me, high)
    tl.atomic_add(loads + expert, wished, sem="relaxed")
    met = meet(arrived, 0)
    low = tl.min(tl.load(extremes + p, mask=p < programs, other=float("inf"), cache_modifier=".cg"), axis=0)
    high = tl.max(
        tl.load(extremes + programs + p, mask=p < programs, other=float("-inf"), cache_modifier=".cg"), axis=0
    )
    scale = (1 << (DIGIT * LEVELS)) / (2.0 * tl.maximum(high - low, 1e-6))  # no price need exceed twice the range
    wished = tl.load(loads + expert, cache_modifier=".cg")
    fits = tl.max(wished - slots, axis=0) <= 0
    price = tl.load(start + expert, mask=expert < E, other=0.0)
    price = tl.where(alive & (price > 0.0) & (price < 3e38) & (fits == 0), price, 0.0)
    if short == 0:
        price = tl.where(alive, price - tl.min(tl.where(alive, price, float("inf")), axis=0), 0.0)

    sweep, busy, lowest = 0, tokens > 0, tl.full([], float("inf"), tl.float64)
    while busy:
        part, load = tl.zeros([], tl.float64), tl.zeros([BE], tl.int32)
        block = me
        while block * BT < tokens:
            token = block * BT + tl.arange(0, BT)
            value, inside = values(scores, bias, token, tokens, alive, E, BE, HAS_BIAS)
            net = tl.where(inside, value - price[None, :], float("-inf"))
            chosen = choose(net, K) >= 0
            part += tl.sum(tl.sum(tl.where(chosen, tl.maximum(net, floor), 0.0).to(tl.float64), axis=1), axis=0)
            load += tl.sum((chosen & (net > floor)).to(tl.int32), axis=0)
            limit = tl.maximum(tl.max(tl.where(chosen, float("-inf"), net), axis=1), floor)
            limit = tl.where(limit == float("-inf"), 0.0, limit)  # each takes every living expert: there is room
            tl.store(cut + token, limit, mask=token < tokens)
            block += programs
        tl.store(dual + sweep * programs + me, part)
        tl.atomic_add(loads + (sweep + 1) * BE + expert, load, sem="relaxed")
        met = meet(arrived, met)
        load = tl.load(loads + (sweep + 1) * BE + expert, cache_modifier=".cg")
        worth = tl.sum(tl.load(dual + sweep * programs + p, mask=p < programs, other=0.0, cache_modifier=".cg"), axis=0)
        worth += tl.sum((slots.to(tl.float32) * price).to(tl.float64), axis=0)
        lowest = tl.minimum(lowest, worth)
        over = tl.sum(tl.maximum(load - slots, 0), axis=0)
        idle = tl.sum(tl.maximum(slots - load, 0).to(tl.float32) * price, axis=0)
        enough = (over <= overflow_share * tokens * picks) & (idle <= idle_share * worth)
        busy = (sweep < sweeps) & (enough == 0)
        if busy:
            digit, rank, level = tl.zeros([BE], tl.int32), slots + 1, 0
            while level < LEVELS:
                histogram = histograms + (sweep * LEVELS + level) * (BE << DIGIT)
                block = me
                while block * BT < tokens:
                    token = block * BT + tl.arange(0, BT)
                    value, inside = values(scores, bias, token, tokens, alive, E, BE, HAS_BIAS)
                    limit = tl.load(cut + token, mask=token < tokens, other=0.0)[:, None]
                    steps = tl.minimum(tl.maximum(value - limit, 0.0) * scale, (1 << (DIGIT * LEVELS)) - 1)
                    key = tl.where(inside & (value > limit), steps.to(tl.int32), -1)
                    count_digits(histogram, key, digit, DIGIT * (LEVELS - 1 - level), E, DIGIT)
                    block += programs
                met = meet(arrived, met)
                digit, rank = next_digit(histogram, digit, rank, E, BE, DIGIT)
                level += 1
            change = tl.where(digit > 0, (digit + 1) / scale, 0.0) - price  # just above what one too many would pay
            price = tl.where(alive, tl.maximum(price + change * tl.where(change > 0, up, down), 0.0), 0.0)
            if short == 0:
                price = tl.where(alive, price - tl.min(tl.where(alive, price, float("inf")), axis=0), 0.0)
            sweep += 1
    if me == 0:
        tl.store(final + expert, tl.where(alive, price, float("inf")), mask=expert < E)
        tl.store(bound, lowest)


def solve(
    scores_TE: Tensor,
    capacity_E: Tensor,
    k: int,
    *,
    start_E: Tensor | None = None,
    bias_E: Tensor | None = None,
    real: Tensor | None = None,
    sweeps: int = 12,
) -> Prices:
    """Prices by at most `sweeps` sweeps from `start_E` (default 0). Scores and bias: float32, capacities: integers.

    `real`: how many tokens there are, a 0-d integer on the device; those behind them are padding and left alone.
    """
    (tokens, experts), new = scores_TE.shape, scores_TE.new_empty
    columns = power_of_two(experts)
    digit, levels = digits(columns, PRICE_BITS)
    block = tiles.tokens_together(tokens, columns)
    programs = tiles.programs_together(triton.cdiv(tokens, block), scores_TE.device)
    start_E = new(experts, dtype=torch.float32).zero_() if start_E is None else start_E.float()
    made = Prices(new(experts, dtype=torch.float32), new((), dtype=torch.float64))
    if not tokens:
        return Prices(torch.zeros_like(start_E).masked_fill_(capacity_E <= 0, torch.inf), made.bound.zero_())
    sizes = [1, (sweeps + 2) * columns, max(1, sweeps) * columns * (levels << digit)]
    arrived, loads, histograms = new(sum(sizes), dtype=torch.int32).zero_().split(sizes)
    _prices[(programs,)](
        scores_TE, bias_E, start_E, capacity_E, *made, new(tokens, dtype=torch.float32),
        new(2 * programs, dtype=torch.float32), new((sweeps + 1) * programs, dtype=torch.float64), loads, histograms,
        arrived, real, tokens, sweeps, UP, DOWN, OVERFLOW_SHARE, IDLE_SHARE, E=experts, K=k, BT=block, BE=columns,
        BP=power_of_two(programs), DIGIT=digit, LEVELS=levels, HAS_BIAS=bias_E is not None,
        HAS_REAL=real is not None, num_warps=8, launch_cooperative_grid=True,
    )  # fmt: skip
    return made
