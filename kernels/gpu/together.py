"""What programs of one launch need to work together: a barrier, and exact order statistics of all that they hold.

Not a kernel: `prices` and `assign` are made of it. Both are launched as cooperative grids, so that all programs run at
once; a barrier costs about as much as half a launch. Counts are integers, so their order of arrival changes no bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

PRICE_BITS = 14
"""Steps of a price between nought and the highest."""
MARGIN_BITS, MOST_KEY_BITS = 14, 30
"""Leading bits of a margin in a key by which slots are given, and bits of the whole key at most."""


def key_bits(tokens: int) -> tuple[int, int]:
    """Bits of a key, and how many of them name the token."""
    token_bits = max(1, (tokens - 1).bit_length())
    return min(MOST_KEY_BITS, token_bits + MARGIN_BITS), token_bits


def digits(experts: int, bits: int) -> tuple[int, int]:
    """Bits per digit and digits per key, for histograms of 2048 numbers over all experts (a power of two)."""
    width = max(2, (2048 // experts).bit_length() - 1)
    return width, -(-bits // width)


@triton.jit
def meet(arrived, met):
    """Wait for the other programs: what they wrote before is there after, for loads that pass by the first-level cache.

    `arrived` is one counter that starts at 0, `met` the number of meetings so far; returns `met + 1`.
    """
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem="acq_rel")
    while tl.atomic_add(arrived, 0, sem="acquire") < (met + 1) * tl.num_programs(0):
        pass
    tl.debug_barrier()
    return met + 1


@triton.jit
def count_digits(histogram, keys, prefix, shift, E: tl.constexpr, DIGIT: tl.constexpr):
    """Count the digit at `shift` of the `keys` (BT, BE; -1 = none) that begin with their expert's `prefix`."""
    expert = tl.arange(0, keys.shape[1])[None, :]
    counts = (keys >= 0) & (((keys >> shift) >> DIGIT) == prefix[None, :])
    place = (expert << DIGIT) + ((keys >> shift) & ((1 << DIGIT) - 1))
    tl.atomic_add(histogram + place, 1, mask=counts & (expert < E), sem="relaxed")


@triton.jit
def next_digit(histogram, prefix, rank, E: tl.constexpr, BE: tl.constexpr, DIGIT: tl.constexpr):
    """One more digit of the `rank`-th largest key of each expert, and its rank among the keys that begin with it.

    Where there are fewer keys than that the result is 0.
    """
    expert, digit = tl.arange(0, BE)[:, None], tl.arange(0, 1 << DIGIT)[None, :]
    inside = (expert < E) & (digit >= 0)
    count = tl.load(histogram + (expert << DIGIT) + digit, mask=inside, other=0, cache_modifier=".cg")
    from_here = tl.sum(count, axis=1)[:, None] - tl.cumsum(count, axis=1) + count  # keys with this digit or a larger
    found = tl.max(tl.where(from_here >= rank[:, None], digit, 0), axis=1)
    larger = tl.sum(tl.where(digit > found[:, None], count, 0), axis=1)
    return (prefix << DIGIT) + found, rank - larger
