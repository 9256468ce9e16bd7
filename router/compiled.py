"""The scalar loops of price routing, compiled by numba where it is installed (extra `fast`); CPU only.

`sweep` finds prices: the k+1 best of each token by vector minima and maxima, the quantile of each expert by halving on
vector counts. `hold` assigns at given prices, `settle` moves the last surplus along cheapest chains.
Without numba the same steps run as tensor operations (`router.policies.price`, `router.chains`), several times slower.
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

HALVINGS = 24


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
def _above(keys_T, limit):  # type: ignore[no-untyped-def]
    count = 0
    for t in range(keys_T.size):
        count += keys_T[t] > limit
    return count


@_compiled
def _price_that_fills(surplus_T, slots, low, high):  # type: ignore[no-untyped-def]
    """A price in low..high that `slots` tokens would pay, or the end nearest to one; counting is cheap."""
    low, high = surplus_T.dtype.type(low), surplus_T.dtype.type(high)
    if _above(surplus_T, low) <= slots:
        return low
    if _above(surplus_T, high) > slots:
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / surplus_T.dtype.type(2)
        count = _above(surplus_T, middle)
        if count == slots:
            return middle
        if count > slots:
            low = middle
        else:
            high = middle
    return high


@_compiled
def sweep(
    value_AT: np.ndarray,
    slots_A: np.ndarray,
    k: int,
    short: bool,
    prices_A: np.ndarray,
    cut_T: np.ndarray,
    sweeps: int,
    most: int,
    up: float,
    down: float,
    enough: float,
    hard: float,
    idle_share: float,
    width: float,
) -> tuple[float, float]:
    """Up to `sweeps` over-relaxed quantile steps, up to `most` while more than `hard` slots are over capacity
    or idle room costs more than twice `idle_share`.

    Changes `prices_A` to the new prices and `cut_T` to the cut-offs at these prices. Stops early when at most
    `enough` slots are over capacity and idle room costs at most `idle_share` of the score. `width` is how far a
    price may be from its start; 0 = anywhere.
    Returns the lowest dual value seen, and how far the prices may still be from where they belong.
    """
    alive, tokens = value_AT.shape
    best_KT = np.empty((k, tokens), value_AT.dtype)
    surplus_T, price_A = np.empty(tokens, value_AT.dtype), np.empty(alive)
    width = width if width > 0 else 1e-12 + value_AT.max()
    bound = np.inf
    for turn in range(most + 1):
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
            dual += slots_A[e] * price
            over += max(load - slots_A[e], 0)
            idle += max(slots_A[e] - load, 0) * price
        bound = min(bound, dual)
        if turn == most or (turn >= sweeps and over <= hard and idle <= 2 * idle_share * dual):
            break
        if turn > 0 and over <= enough and idle <= idle_share * dual:
            break
        for e in range(alive):
            for t in range(tokens):
                surplus_T[t] = value_AT[e, t] - cut_T[t]
            price_A[e] = _price_that_fills(surplus_T, slots_A[e], max(0.0, prices_A[e] - width), prices_A[e] + width)
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
def hold(value_AT, prices_A, cut_T, held_AT, load_A, least_T):  # type: ignore[no-untyped-def]
    """Who holds what at these prices, the loads, and the least margin among the experts a token holds."""
    alive, tokens = value_AT.shape
    least_T[:] = np.inf
    for e in range(alive):
        price, load = prices_A[e], 0
        for t in range(tokens):
            margin = value_AT[e, t] - price - cut_T[t]
            held = margin > 0
            held_AT[e, t] = held
            load += held
            least_T[t] = margin if held and margin < least_T[t] else least_T[t]
        load_A[e] = load


@_compiled
def _scan(value_LA, held_AL, a, cost_AA, mover_AA):  # type: ignore[no-untyped-def]
    """For expert a and every other: the token that moves there at the least cost."""
    tokens, alive = value_LA.shape
    cost_AA[a, :] = np.inf
    mover_AA[a, :] = -1
    for t in range(tokens):
        if held_AL[a, t]:
            for b in range(alive):
                cost = value_LA[t, a] - value_LA[t, b]
                if cost < cost_AA[a, b] and not held_AL[b, t]:
                    cost_AA[a, b] = cost
                    mover_AA[a, b] = t


@_compiled
def settle(
    value_TA: np.ndarray,
    held_AT: np.ndarray,
    load_A: np.ndarray,
    slots_A: np.ndarray,
    token_L: np.ndarray,
    most: int,
) -> int:
    """Move surplus to room along cheapest chains of experts, then tokens into room that they like better.

    Only the tokens `token_L` move. Changes `held_AT` and `load_A`; returns the number of chains, at most `most`.
    A chain is a shortest path (Bellman-Ford) in the graph whose edge a -> b costs what its cheapest token loses.
    """
    if token_L.size == value_TA.shape[0]:
        return _settle(value_TA, held_AT, load_A, slots_A, most)
    held_AL = held_AT[:, token_L]
    done = _settle(value_TA[token_L], held_AL, load_A, slots_A, most)
    held_AT[:, token_L] = held_AL
    return done


@_compiled
def _settle(value_LA, held_AL, load_A, slots_A, most):  # type: ignore[no-untyped-def]
    alive = value_LA.shape[1]
    cost_AA = np.full((alive, alive), np.inf, value_LA.dtype)
    mover_AA = np.full((alive, alive), -1)
    distance_A, parent_A = np.empty(alive), np.empty(alive, np.int64)
    for a in range(alive):
        _scan(value_LA, held_AL, a, cost_AA, mover_AA)
    for done in range(most):
        surplus = False
        for e in range(alive):
            surplus |= load_A[e] > slots_A[e]
        for e in range(alive):
            parent_A[e] = -1
            distance_A[e] = 0.0 if (not surplus or load_A[e] > slots_A[e]) else np.inf
        fresh_A = distance_A < np.inf
        for _ in range(alive):
            changed = False
            for a in range(alive):
                if fresh_A[a]:
                    fresh_A[a] = False
                    for b in range(alive):
                        through = distance_A[a] + cost_AA[a, b]
                        if through < distance_A[b] - 1e-9:
                            distance_A[b] = through
                            parent_A[b] = a
                            fresh_A[b] = True
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
            held_AL[a, t] = False
            held_AL[b, t] = True
            distance_A[b] = -np.inf  # has a new token: its row is stale
            b = a
        # Rows of every expert that a moved token holds offer other moves now.
        for e in range(alive):
            stale = distance_A[e] == -np.inf
            for b in range(alive):
                t = mover_AA[e, b]
                stale |= t >= 0 and (not held_AL[e, t] or held_AL[b, t])
            if stale:
                _scan(value_LA, held_AL, e, cost_AA, mover_AA)
    return most


@_compiled
def potentials(value_TA: np.ndarray, held_AT: np.ndarray, full_A: np.ndarray, prices_A: np.ndarray) -> None:
    """Prices at which every token would hold just what it holds, if there are such; changes `prices_A`.

    A token that holds a and not b asks for price_a - price_b <= value_a - value_b. Relaxing these inequalities from
    0 for experts that are not full, or from the present prices if all are, is Bellman-Ford; where it settles the
    assignment is optimal and its dual value equals its score.
    """
    tokens, alive = value_TA.shape
    slack_AA = np.full((alive, alive), np.inf, value_TA.dtype)
    for a in range(alive):
        for t in range(tokens):
            if held_AT[a, t]:
                for b in range(alive):
                    slack = value_TA[t, a] - value_TA[t, b]
                    if slack < slack_AA[a, b] and not held_AT[b, t]:
                        slack_AA[a, b] = slack
    if not full_A.all():  # prices hang from those of the experts with room, as high as they may
        for a in range(alive):
            prices_A[a] = 2.0 * value_TA.max() if full_A[a] else 0.0
    for _ in range(alive):
        changed = False
        for a in range(alive):
            for b in range(alive):
                if prices_A[b] + slack_AA[a, b] < prices_A[a]:
                    prices_A[a] = prices_A[b] + slack_AA[a, b]
                    changed = True
        if not changed:
            break
    prices_A -= prices_A.min()


@_compiled
def list_held(held_AT: np.ndarray, expert_A: np.ndarray, ids_TK: np.ndarray) -> None:
    """Numbers of the experts each token holds, in rising order, into `ids_TK`; the rest of it is left alone."""
    alive, tokens = held_AT.shape
    count_T = np.zeros(tokens, np.int64)
    for e in range(alive):
        for t in range(tokens):
            if held_AT[e, t]:
                ids_TK[t, count_T[t]] = expert_A[e]
                count_T[t] += 1


@_compiled
def beside_wishes(ids_TK: np.ndarray, wishes_TK: np.ndarray, redirected_TK: np.ndarray) -> None:
    """Reorder each token's ids so that a wish that came true stands in the wish's slot; mark replacements. In place."""
    tokens, k = ids_TK.shape
    left_K = np.empty(k, np.int64)
    for t in range(tokens):
        left = 0
        for j in range(k):
            wished = False
            for i in range(k):
                wished |= ids_TK[t, j] == wishes_TK[t, i]
            if not wished:
                left_K[left] = ids_TK[t, j]
                left += 1
        granted_bits = 0
        for i in range(k):
            for j in range(k):
                if ids_TK[t, j] == wishes_TK[t, i]:
                    granted_bits |= 1 << i
        left = 0
        for i in range(k):
            redirected_TK[t, i] = False
            if granted_bits >> i & 1:
                ids_TK[t, i] = wishes_TK[t, i]
            else:
                ids_TK[t, i] = left_K[left]
                redirected_TK[t, i] = left_K[left] >= 0
                left += 1


@cache
def prepare() -> None:
    """Compile for float32 now, not inside a request: seconds the first time on a machine, then tens of milliseconds."""
    if available:
        value_AT, slots_A = np.random.default_rng(0).random((2, 8), dtype=np.float32), np.array([4, 4])
        cut_T, prices_A, least_T = np.empty(8, np.float32), np.zeros(2, np.float32), np.empty(8, np.float32)
        sweep(value_AT, slots_A, 1, False, prices_A, cut_T, 2, 2, 1.2, 1.8, 0.0, 0.0, 0.0, 0.0)
        held_AT, load_A = np.empty((2, 8), np.bool_), np.empty(2, np.int64)
        hold(value_AT, np.array([0, 9], np.float32), cut_T, held_AT, load_A, least_T)
        settle(np.ascontiguousarray(value_AT.T), held_AT, load_A, slots_A, np.arange(8), 4)
        potentials(np.ascontiguousarray(value_AT.T), held_AT, load_A >= slots_A, prices_A)
        list_held(held_AT, np.arange(2), np.empty((8, 2), np.int64))
        beside_wishes(np.zeros((8, 1), np.int64), np.ones((8, 1), np.int64), np.zeros((8, 1), np.bool_))
