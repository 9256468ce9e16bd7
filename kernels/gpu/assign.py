"""A hard assignment at given prices, in one launch: no expert over its capacity, no slot lost while there is room.

Grid: at most one program per processor, all at once (a cooperative grid); each has every `programs`-th block of `BT`
tokens. Rounds: a token proposes to the best open experts it lacks, as many as it misses, and its key at each is its
margin, what it would lose by its next best; an expert takes the largest keys that it has room for, and of equal ones
the earlier token. The first round goes by `value - price` - who is not taken is evicted - the others, bids for what is
left, by value. Rounds end when nothing is missing or no room is left, at `ROUNDS` at the latest. What is left then,
seldom anything, one program places: over a ring of the free slots, from a phase that the caller moves from batch to
batch, and last by exchange: when a token already holds all that has room, another that does not moves there.
Reads scores (T, E), prices, bound; writes `held_T` (bit e: holds expert e), `load_E`, `kept`, `gap`.
Bytes: 4*T*E in, 8*T out; in each round 8*T*E of keys, `LEVELS` + 1 meetings and as many histograms of 8 KiB.

The largest keys are found digit by digit in histograms that all programs add to. A key ends with the token's number,
so that no two are equal: exactly as many are taken as fit.
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
from kernels.gpu.prices import Prices, market, values
from kernels.gpu.together import count_digits, digits, key_bits, meet, next_digit

ROUNDS = 8
MOST_EXPERTS = 64
"""Experts that the bits of one integer can name."""


class Assignment(NamedTuple):
    """Who holds what.

    Attributes:
        held_T: bit e of the int64 says that the token holds expert e.
        load_E: tokens that hold each expert, int32, none above its capacity.
        kept: sum of score + bias over what is held, 0-d float64.
        gap: upper bound on the relative distance of `kept` to the most that any assignment keeps, 0-d float64.
    """

    held_T: Tensor
    load_E: Tensor
    kept: Tensor
    gap: Tensor


@triton.jit
def holds(held, expert):
    """Whether each token (BT) holds each expert (BE): 0 or 1, (BT, BE)."""
    return ((held[:, None] >> expert[None, :].to(tl.int64)) & 1).to(tl.int32)


@triton.jit
def proposals(worth, open, short_by, token, K: tl.constexpr, TOKEN_BITS: tl.constexpr, KEY_BITS: tl.constexpr):
    """Keys of what each token proposes to, the `short_by` best open experts: (BT, BE), -1 = nothing."""
    net = tl.where(open, worth, float("-inf"))
    slot = choose(net, K)
    wanted = (slot >= 0) & (slot < short_by[:, None])
    other = tl.max(tl.where(wanted, float("-inf"), net), axis=1)
    other = tl.where(other > float("-inf"), other, 0.0)
    margin = tl.maximum(worth - other[:, None], 0.0)
    bits = margin.to(tl.int32, bitcast=True) >> (31 - KEY_BITS)  # floats that are not negative compare as integers do
    last = (1 << TOKEN_BITS) - 1
    return tl.where(wanted, (bits & (((1 << KEY_BITS) - 1) ^ last)) | (last - token)[:, None], -1)


@triton.jit
def _ring(held, load, slots, phase, tokens, missing, picks, E: tl.constexpr, K: tl.constexpr, BT: tl.constexpr,
          BE: tl.constexpr):  # fmt: skip
    """Spread the missing slots evenly over the free ones, blind to scores; returns the new loads. For one program."""
    expert, room = tl.arange(0, BE), slots - load
    end, free = tl.cumsum(room, axis=0), tl.sum(room, axis=0).to(tl.int64)
    count, first, block = tl.minimum(missing, free), tl.cast(0, tl.int64), 0
    while block * BT < tokens:
        token = block * BT + tl.arange(0, BT)
        has = tl.load(held + token, mask=token < tokens, other=0, cache_modifier=".cg")
        short_by = tl.where(token < tokens, picks - tl.sum(holds(has, expert), axis=1), 0)
        before = first + (tl.cumsum(short_by, axis=0) - short_by).to(tl.int64)
        for j in range(K):
            place = ((before + j) * free // tl.maximum(count, 1) + phase) % tl.maximum(free, 1)
            owner = tl.sum((end[None, :].to(tl.int64) <= place[:, None]).to(tl.int32), axis=1)
            bit = tl.full([BT], 1, tl.int64) << tl.minimum(owner, E - 1).to(tl.int64)
            fits = (short_by > j) & (before + j < count) & ((has & bit) == 0)
            has = tl.where(fits, has | bit, has)
            load += tl.sum((fits[:, None] & (owner[:, None] == expert[None, :])).to(tl.int32), axis=0)
        tl.store(held + token, has, mask=token < tokens)
        first += tl.sum(short_by, axis=0).to(tl.int64)
        block += 1
    return load


@triton.jit
def _exchange(held, load, slots, tokens, picks, BT: tl.constexpr, BE: tl.constexpr):
    """Fill one free slot: by a token that misses one and lacks the expert, or by one that moves there and leaves its
    slot to one that misses. Returns the new loads. One of the two exists while slots are missing; for one program.
    """
    expert = tl.arange(0, BE)
    e = tl.min(tl.where(load < slots, expert, BE), axis=0)
    bit = tl.full([], 1, tl.int64) << e.to(tl.int64)
    direct, needy, block = tokens, tokens, 0
    while block * BT < tokens:
        token = block * BT + tl.arange(0, BT)
        has = tl.load(held + token, mask=token < tokens, other=0, cache_modifier=".cg")
        missing = (token < tokens) & (tl.sum(holds(has, expert), axis=1) < picks)
        needy = tl.minimum(needy, tl.min(tl.where(missing, token, tokens), axis=0))
        direct = tl.minimum(direct, tl.min(tl.where(missing & ((has & bit) == 0), token, tokens), axis=0))
        block += 1
    if direct < tokens:
        tl.store(held + direct, tl.load(held + direct, cache_modifier=".cg") | bit)
    else:
        mine, mover, block = tl.load(held + needy, cache_modifier=".cg"), tokens, 0
        while block * BT < tokens:
            token = block * BT + tl.arange(0, BT)
            has = tl.load(held + token, mask=token < tokens, other=-1, cache_modifier=".cg")
            gives = ((has & bit) == 0) & ((has & ~mine) != 0)
            mover = tl.minimum(mover, tl.min(tl.where(gives, token, tokens), axis=0))
            block += 1
        has = tl.load(held + mover, cache_modifier=".cg")
        given = (has & ~mine) & -(has & ~mine)  # its lowest bit
        tl.store(held + mover, (has ^ given) | bit)
        tl.store(held + needy, mine | given)
    tl.debug_barrier()
    return load + (expert == e).to(tl.int32)


@triton.jit
def _assign(scores, bias, prices, bound, capacity, phase, held, final_load, kept, gap, keys, parts, loads, histograms,
            arrived, real, tokens, E: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BE: tl.constexpr,
            BP: tl.constexpr, ROUNDS: tl.constexpr, DIGIT: tl.constexpr, LEVELS: tl.constexpr,
            TOKEN_BITS: tl.constexpr, KEY_BITS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_PHASE: tl.constexpr,
            HAS_REAL: tl.constexpr):  # fmt: skip
    rows = tl.cast(tokens, tl.int32)  # 1 would be a constant
    tokens = rows
    if HAS_REAL:
        tokens = tl.load(real).to(tl.int32)
    me, programs, expert, p = tl.program_id(0), tl.num_programs(0), tl.arange(0, BE), tl.arange(0, BP)
    slots, picks, short = market(capacity, tokens, E, K, BE)
    price = tl.load(prices + expert, mask=(expert < E) & (slots > 0), other=0.0)
    load, met = tl.zeros([BE], tl.int32), 0
    missing = tokens.to(tl.int64) * picks
    block = me
    while block * BT < rows:
        token = block * BT + tl.arange(0, BT)
        tl.store(held + token, tl.zeros([BT], tl.int64), mask=token < rows)
        block += programs
    tl.debug_barrier()

    turn = 0
    while (turn < ROUNDS) & (missing > 0) & (tl.sum(slots - load, axis=0) > 0):
        block = me
        while block * BT < tokens:
            token = block * BT + tl.arange(0, BT)
            value, inside = values(scores, bias, token, tokens, load < slots, E, BE, HAS_BIAS)
            worth = value - tl.where(turn == 0, price, 0.0)[None, :]
            has = holds(tl.load(held + token, mask=token < tokens, other=0), expert)
            open = inside & (has == 0) & ((worth > 0.0) | (short == 0) | (turn > 0))
            key = proposals(worth, open, picks - tl.sum(has, axis=1), token, K, TOKEN_BITS, KEY_BITS)
            place = token.to(tl.int64)[:, None] * BE + expert[None, :]
            tl.store(keys + place, key, mask=(token < tokens)[:, None])
            block += programs
        least, rank, level = tl.zeros([BE], tl.int32), slots - load, 0
        while level < LEVELS:
            tl.debug_barrier()
            histogram = histograms + (turn * LEVELS + level) * (BE << DIGIT)
            block = me
            while block * BT < tokens:
                token = block * BT + tl.arange(0, BT)
                place = token.to(tl.int64)[:, None] * BE + expert[None, :]
                key = tl.load(keys + place, mask=(token < tokens)[:, None], other=-1)
                count_digits(histogram, key, least, DIGIT * (LEVELS - 1 - level), E, DIGIT)
                block += programs
            met = meet(arrived, met)
            least, rank = next_digit(histogram, least, rank, E, BE, DIGIT)
            level += 1
        taken = tl.zeros([BE], tl.int32)
        block = me
        while block * BT < tokens:
            token = block * BT + tl.arange(0, BT)
            place = token.to(tl.int64)[:, None] * BE + expert[None, :]
            key = tl.load(keys + place, mask=(token < tokens)[:, None], other=-1)
            won = (key >= 0) & (key >= least[None, :])
            bits = tl.sum(tl.where(won, tl.full([BT, BE], 1, tl.int64) << expert[None, :].to(tl.int64), 0), axis=1)
            has = tl.load(held + token, mask=token < tokens, other=0)
            tl.store(held + token, has | bits, mask=token < tokens)
            taken += tl.sum(won.to(tl.int32), axis=0)
            block += programs
        tl.atomic_add(loads + turn * BE + expert, taken, sem="relaxed")
        met = meet(arrived, met)
        taken = tl.load(loads + turn * BE + expert, cache_modifier=".cg")
        load += taken
        missing -= tl.sum(taken, axis=0)
        turn += 1

    if (missing > 0) & (tl.sum(slots - load, axis=0) > 0):
        if me == 0:
            turn_of = tl.cast(0, tl.int64)
            if HAS_PHASE:
                turn_of = tl.load(phase).to(tl.int64) * 40503
            load = _ring(held, load, slots, turn_of, tokens, missing, picks, E, K, BT, BE)
            tl.debug_barrier()
            rest = tokens.to(tl.int64) * picks - tl.sum(load, axis=0)
            while (rest > 0) & (tl.sum(slots - load, axis=0) > 0):
                load = _exchange(held, load, slots, tokens, picks, BT, BE)
                rest -= 1
        met = meet(arrived, met)

    part = tl.zeros([], tl.float64)
    block = me
    while block * BT < tokens:
        token = block * BT + tl.arange(0, BT)
        value, inside = values(scores, bias, token, tokens, slots > 0, E, BE, HAS_BIAS)
        has = holds(tl.load(held + token, mask=token < tokens, other=0, cache_modifier=".cg"), expert)
        part += tl.sum(tl.sum(tl.where(inside & (has > 0), value, 0.0).to(tl.float64), axis=1), axis=0)
        block += programs
    tl.store(parts + me, part)
    met = meet(arrived, met)
    if me == 0:
        total = tl.sum(tl.load(parts + p, mask=p < programs, other=0.0, cache_modifier=".cg"), axis=0)
        most = tl.load(bound)
        tl.store(kept, total)
        tl.store(gap, tl.where(most > 0.0, tl.maximum((most - total) / most, 0.0), 0.0))
        tl.store(final_load + expert, load, mask=expert < E)


def assign(
    scores_TE: Tensor,
    capacity_E: Tensor,
    k: int,
    prices: Prices,
    *,
    bias_E: Tensor | None = None,
    phase: Tensor | None = None,
    real: Tensor | None = None,
) -> Assignment:
    """Fill the capacities at these prices. Scores, bias, `real` as for `solve`; `phase`: 0-d integer on the device.

    Raises:
        ValueError: more experts than one integer has bits.
    """
    (tokens, experts), new = scores_TE.shape, scores_TE.new_empty
    if experts > MOST_EXPERTS:
        raise ValueError(f"hard balance serves at most {MOST_EXPERTS} experts, not {experts}")
    made = Assignment(new(tokens, dtype=torch.int64), new(experts, dtype=torch.int32), new((), dtype=torch.float64),
                      new((), dtype=torch.float64))  # fmt: skip
    if not tokens:
        return Assignment(made.held_T, *(part.zero_() for part in made[1:]))
    columns = power_of_two(experts)
    bits, token_bits = key_bits(tokens)
    digit, levels = digits(columns, bits)
    block = tiles.tokens_together(tokens, columns)
    programs = tiles.programs_together(triton.cdiv(tokens, block), scores_TE.device)
    sizes = [1, ROUNDS * columns, ROUNDS * columns * (levels << digit)]
    arrived, loads, histograms = new(sum(sizes), dtype=torch.int32).zero_().split(sizes)
    _assign[(programs,)](
        scores_TE, bias_E, prices.prices_E, prices.bound, capacity_E, phase, *made,
        new(tokens, columns, dtype=torch.int32), new(programs, dtype=torch.float64), loads, histograms, arrived, real,
        tokens, E=experts, K=k, BT=block, BE=columns, BP=power_of_two(programs), ROUNDS=ROUNDS, DIGIT=digit,
        LEVELS=levels, TOKEN_BITS=token_bits, KEY_BITS=bits, HAS_BIAS=bias_E is not None,
        HAS_PHASE=phase is not None, HAS_REAL=real is not None, num_warps=8, launch_cooperative_grid=True,
    )  # fmt: skip
    return made
