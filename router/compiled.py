"""The two scalar loops of price routing, compiled by numba where it is installed (extra `fast`); CPU only.

`sweep` finds prices: the k+1 best of each token by vector minima and maxima, the quantile of each expert off a
histogram that zooms in on its price. `settle` moves the last surplus along cheapest chains.
Without numba the same steps run as tensor operations (`router.policies.price`, `router.chains`), 5-20x slower.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

available = find_spec("numba") is not None
if available:
    import numba
    import numpy as np

BINS = 128


def _compiled(function: Callable[..., Any]) -> Any:
    """Machine code, kept on disk where a folder can be written."""
    if not available:
        return function
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no writable folder for the cache
        return numba.njit(nogil=True)(function)


@_compiled
def _cut_offs(value_AT, k, prices_A, best_KT, cut_T):  # type: ignore[no-untyped-def]
    """The k+1 largest of value - price per token, into `best_KT` and `cut_T`.

    Straight passes of minima and maxima: they vectorise.
    """
    alive, tokens = value_AT.shape
    net_T = np.empty(tokens, value_AT.dtype)
    best_KT[:] = -np.inf
    cut_T[:] = -np.inf
    for e in range(alive):
        price = prices_A[e]
        for t in range(tokens):
            net_T[t] = value_AT[e, t] - price
        for j in range(k):
            for t in range(tokens):
                held, net = best_KT[j, t], net_T[t]
                best_KT[j, t] = held if held > net else net
                net_T[t] = net if held > net else held
        for t in range(tokens):
            cut_T[t] = cut_T[t] if cut_T[t] > net_T[t] else net_T[t]


@_compiled
def sweep(
    value_AT: np.ndarray,
    slots_A: np.ndarray,
    k: int,
    short: bool,
    prices_A: np.ndarray,
    cut_T: np.ndarray,
    sweeps: int,
    up: float,
    down: float,
    enough: float,
    idle_share: float,
    width: float,
) -> tuple[float, float]:
    """Up to `sweeps` over-relaxed quantile steps.

    Changes `prices_A` to the new prices and `cut_T` to the cut-offs at these prices. Stops early when at most
    `enough` slots are over capacity and idle room costs at most `idle_share` of the score. `width` is how far a
    price may be from its start; 0 = anywhere.
    Returns the lowest dual value seen, and how far the prices may still be from where they belong.
    """
    alive, tokens = value_AT.shape
    best_KT = np.empty((k, tokens), value_AT.dtype)
    count_B = np.empty(BINS, np.int64)
    price_A, load_A = np.empty(alive), np.empty(alive, np.int64)
    width = width if width > 0 else 1e-12 + value_AT.max()
    bound = np.inf
    for turn in range(sweeps + 1):
        _cut_offs(value_AT, k, prices_A, best_KT, cut_T)
        if k == alive:
            cut_T[:] = -1.0  # below every score: all are taken
        if short:
            np.maximum(cut_T, 0, cut_T)
            np.maximum(best_KT, 0, best_KT)
        dual, over, idle = 0.0, 0, 0.0
        for j in range(k):
            for t in range(tokens):
                dual += best_KT[j, t]
        for e in range(alive):
            price, load = prices_A[e], 0
            for t in range(tokens):
                load += value_AT[e, t] - price > cut_T[t]
            load_A[e] = load
            dual += slots_A[e] * price
            over += max(load - slots_A[e], 0)
            idle += max(slots_A[e] - load, 0) * price
        bound = min(bound, dual)
        if turn == sweeps or (turn > 0 and over <= enough and idle <= idle_share * dual):
            break
        for e in range(alive):
            # The price that fills the expert is the (slots+1)-th largest value - cut-off: read off a histogram
            # round the present price.
            low = max(0.0, prices_A[e] - width)
            scale = BINS / (prices_A[e] + width - low)
            count_B[:] = 0
            seen = 0
            for t in range(tokens):
                place = (value_AT[e, t] - cut_T[t] - low) * scale
                if place > 0.0:
                    if place < BINS:
                        count_B[int(place)] += 1
                    else:
                        seen += 1
            wanted, price_A[e] = slots_A[e] + 1, low
            if seen >= wanted:
                price_A[e] = low + BINS / scale
            else:
                for b in range(BINS - 1, -1, -1):
                    if seen + count_B[b] >= wanted:
                        price_A[e] = low + (b + 1 - (wanted - seen) / (count_B[b] + 1.0)) / scale
                        break
                    seen += count_B[b]
        largest = 0.0
        for e in range(alive):
            change = price_A[e] - prices_A[e]
            largest = max(largest, abs(change))
            prices_A[e] = max(0.0, prices_A[e] + (up if change > 0 else down) * change)
        if not short:
            prices_A -= prices_A.min()
        width = max(2.0 * largest, 1e-12)
    return bound, width


@_compiled
def _scan(value_TA, held_TA, token_L, a, cost_AA, mover_AA):  # type: ignore[no-untyped-def]
    """For expert a and every other: the token that moves there at the least cost."""
    alive = value_TA.shape[1]
    cost_AA[a, :] = np.inf
    mover_AA[a, :] = -1
    for t in token_L:
        if held_TA[t, a]:
            for b in range(alive):
                if not held_TA[t, b]:
                    cost = value_TA[t, a] - value_TA[t, b]
                    if cost < cost_AA[a, b]:
                        cost_AA[a, b] = cost
                        mover_AA[a, b] = t


@_compiled
def settle(
    value_TA: np.ndarray,
    held_TA: np.ndarray,
    load_A: np.ndarray,
    slots_A: np.ndarray,
    token_L: np.ndarray,
    most: int,
) -> int:
    """Move surplus to room along cheapest chains of experts, then tokens into room that they like better.

    Only the tokens `token_L` move. Changes `held_TA` and `load_A`; returns the number of chains, at most `most`.
    A chain is a shortest path (Bellman-Ford) in the graph whose edge a -> b costs what its cheapest token loses.
    """
    alive = value_TA.shape[1]
    cost_AA = np.full((alive, alive), np.inf)
    mover_AA = np.full((alive, alive), -1)
    distance_A, parent_A = np.empty(alive), np.empty(alive, np.int64)
    for a in range(alive):
        _scan(value_TA, held_TA, token_L, a, cost_AA, mover_AA)
    for done in range(most):
        surplus = False
        for e in range(alive):
            surplus |= load_A[e] > slots_A[e]
        for e in range(alive):
            parent_A[e] = -1
            distance_A[e] = 0.0 if (not surplus or load_A[e] > slots_A[e]) else np.inf
        for _ in range(alive):
            changed = False
            for a in range(alive):
                if distance_A[a] < np.inf:
                    for b in range(alive):
                        through = distance_A[a] + cost_AA[a, b]
                        if through < distance_A[b] - 1e-9:
                            distance_A[b] = through
                            parent_A[b] = a
                            changed = True
            if not changed:
                break
        sink = -1
        for e in range(alive):
            if load_A[e] < slots_A[e] and parent_A[e] >= 0 and (sink < 0 or distance_A[e] < distance_A[sink]):
                sink = e
        if sink < 0 or (not surplus and distance_A[sink] > -1e-7):
            return done
        steps, e = 0, sink
        while parent_A[e] >= 0 and steps <= alive:
            e = parent_A[e]
            steps += 1
        if steps > alive:  # a cycle that gains: not a path
            return done
        load_A[e] -= 1
        load_A[sink] += 1
        b = sink
        while parent_A[b] >= 0:
            a = parent_A[b]
            t = mover_AA[a, b]
            held_TA[t, a] = False
            held_TA[t, b] = True
            _scan(value_TA, held_TA, token_L, a, cost_AA, mover_AA)
            distance_A[b] = -np.inf  # marks the rows of this chain
            b = a
        # Rows of every expert that a moved token holds offer other moves now.
        for e in range(alive):
            stale = distance_A[e] == -np.inf
            for b in range(alive):
                t = mover_AA[e, b]
                stale |= t >= 0 and (not held_TA[t, e] or held_TA[t, b])
            if stale:
                _scan(value_TA, held_TA, token_L, e, cost_AA, mover_AA)
    return most


@cache
def prepare() -> None:
    """Compile for float32 now (seconds the first time on a machine, then tens of milliseconds), not inside a request.

    Ompile for float32 now (seconds the first time on a machine, then tens of milliseconds), not inside a request.
    """
    if available:
        value_TA, slots_A = np.random.default_rng(0).random((8, 2), dtype=np.float32), np.array([4, 4])
        cut_T, prices_A = np.empty(8, np.float32), np.zeros(2, np.float32)
        sweep(value_TA.T.copy(), slots_A, 1, False, prices_A, cut_T, 2, 1.2, 1.8, 0.0, 0.0, 0.0)
        held_TA = np.zeros((8, 2), dtype=np.bool_)
        held_TA[:, 0] = True
        settle(value_TA, held_TA, np.array([8, 0]), slots_A, np.arange(8), 4)
