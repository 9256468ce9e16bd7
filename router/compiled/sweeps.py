"""Prices by sweeps over the tokens: see `router.sweeps` for the method.

Arrays stand experts first, so that every loop over tokens vectorises. Letters: A experts alive, J = k + 1 best of a
token (the last is its cut-off).
"""

from __future__ import annotations

from router.compiled import available, jit

if available:
    import numpy as np

BLOCK = 512  # tokens whose running maxima stay in the first-level cache
HALVINGS, GUESSES = 10, 14
NARROW = 64  # tokens that are skipped together where none is near


@jit
def _take_larger(best_T, net_T):  # type: ignore[no-untyped-def]
    """The larger of each pair into `best_T`, the smaller into `net_T`."""
    for t in range(best_T.size):
        best, net = best_T[t], net_T[t]
        best_T[t] = best if best > net else net
        net_T[t] = net if best > net else best


@jit
def _net(value_T, price, net_T):  # type: ignore[no-untyped-def]
    for t in range(net_T.size):
        net_T[t] = value_T[t] - price


@jit
def _best(value_AT, price_A, best_JT):  # type: ignore[no-untyped-def]
    """The largest values of value - price of each token, falling, into `best_JT`; -inf where there are too few."""
    alive, tokens = value_AT.shape
    best_JT[:] = -np.inf
    net_B = np.empty(BLOCK, value_AT.dtype)
    for start in range(0, tokens, BLOCK):
        stop = min(tokens, start + BLOCK)
        net_T = net_B[: stop - start]
        for e in range(alive):
            _net(value_AT[e, start:stop], price_A[e], net_T)
            for j in range(best_JT.shape[0]):
                _take_larger(best_JT[j, start:stop], net_T)


@jit
def _margins(best_JT, short, margin_T):  # type: ignore[no-untyped-def]
    """By how much prices must move before a token changes what it holds. Where slots are short "none" is worth 0:
    it is then one of the best in `best_JT`, and to take or to leave it is a change like any other."""
    places, zero = best_JT.shape[0] - 1, best_JT.dtype.type(0)
    last_T, cut_T = best_JT[places - 1], best_JT[places]
    for t in range(margin_T.size):
        margin_T[t] = last_T[t] - (max(cut_T[t], zero) if short else cut_T[t])
    if short:
        for j in range(places):
            best_T = best_JT[j]
            for t in range(margin_T.size):
                margin_T[t] = min(abs(margin_T[t]), abs(best_T[t]))
        for j in range(places + 1):
            best_T = best_JT[j]
            for t in range(margin_T.size):
                best_T[t] = max(best_T[t], zero)


@jit
def _mark(value_T, price, best_T, expert, id_T):  # type: ignore[no-untyped-def]
    for t in range(id_T.size):
        id_T[t] = expert if value_T[t] - price == best_T[t] else id_T[t]


@jit
def name(value_AT, price_A, best_JT, id_KT):  # type: ignore[no-untyped-def]
    """Whose the best values are: expert numbers into `id_KT`, -1 for a floor. Equal values: rising numbers."""
    alive, tokens = value_AT.shape
    id_KT[:] = -1
    for start in range(0, tokens, BLOCK):
        stop = min(tokens, start + BLOCK)
        for j in range(id_KT.shape[0]):
            best_T, id_T = best_JT[j, start:stop], id_KT[j, start:stop]
            for e in range(alive - 1, -1, -1):
                _mark(value_AT[e, start:stop], price_A[e], best_T, np.int32(e), id_T)
    for j in range(1, id_KT.shape[0]):
        for t in range(tokens):
            if best_JT[j, t] == best_JT[j - 1, t] and id_KT[j, t] >= 0:
                e = id_KT[j - 1, t] + 1
                while e < alive and value_AT[e, t] - price_A[e] != best_JT[j, t]:
                    e += 1
                id_KT[j, t] = e if e < alive else -1


@jit
def transpose(value_TA, stride, value_AT):  # type: ignore[no-untyped-def]
    """Every `stride`-th token, experts first."""
    alive, tokens = value_AT.shape
    for start in range(0, tokens, NARROW):
        stop = min(tokens, start + NARROW)
        for e in range(alive):
            row_T = value_AT[e, start:stop]
            for t in range(row_T.size):
                row_T[t] = value_TA[(start + t) * stride, e]


@jit
def wish(value_TA, value_AT, best_JT, id_KT, demand_A):  # type: ignore[no-untyped-def]
    """`value_AT`, and plain top-k: ids, best first, into `id_KT`; how many want each expert into `demand_A`."""
    transpose(value_TA, 1, value_AT)
    _best(value_AT, np.zeros(value_AT.shape[0], value_AT.dtype), best_JT)
    name(value_AT, np.zeros(value_AT.shape[0], value_AT.dtype), best_JT, id_KT)
    demand_A[:] = 0
    for j in range(id_KT.shape[0]):
        for t in range(id_KT.shape[1]):
            demand_A[id_KT[j, t]] += 1


@jit
def _above(value_T, cut_T, price):  # type: ignore[no-untyped-def]
    """How many tokens pay more than `price` above their cut-off."""
    count = np.int32(0)
    for t in range(value_T.size):
        count += np.int32(value_T[t] - cut_T[t] > price)
    return count


@jit
def _holders(value_T, price, cut_T):  # type: ignore[no-untyped-def]
    count = np.int32(0)
    for t in range(value_T.size):
        count += np.int32(value_T[t] - price > cut_T[t])
    return count


@jit
def _step_alone(value_AT, cut_T, price_A, slots_A, up, down, step_A):  # type: ignore[no-untyped-def]
    """To the price at which just enough tokens pay, each expert by itself, over-relaxed."""
    for e in range(value_AT.shape[0]):
        value_T, slots, price = value_AT[e], slots_A[e], value_AT.dtype.type(0)
        if slots < value_T.size and _above(value_T, cut_T, price) > slots:
            low, high = price, (value_T - cut_T).max()
            for _ in range(HALVINGS):
                price = (low + high) / value_AT.dtype.type(2)
                count = _above(value_T, cut_T, price)
                if count == slots:
                    break
                if count > slots:
                    low = price
                else:
                    high = price
        change = price - price_A[e]
        step_A[e] = (up if change > 0 else down) * change


@jit
def _within(distance_T, width):  # type: ignore[no-untyped-def]
    count = np.int32(0)
    for t in range(distance_T.size):
        count += np.int32(distance_T[t] <= width)
    return count


@jit
def reach(distance_T, wanted, width):  # type: ignore[no-untyped-def]
    """A width within which about `wanted` tokens are, starting from a guess."""
    real = distance_T.dtype.type
    low, high, count = real(0), real(4), np.int32(0)
    for _ in range(GUESSES):
        count = _within(distance_T, width)
        if abs(count - wanted) <= 0.3 * wanted:
            break
        if count < wanted:
            low = width
            width = min(width * real(min(4.0, 1.1 * wanted / max(count, 1))), (low + high) / real(2))
        else:
            high = width
            width = max(width * real(max(0.05, 0.9 * wanted / count)), (low + high) / real(2) if low > 0 else real(0))
    return max(width, real(1e-7))


@jit
def _leaving(value_T, price, cut_T, distance_T):  # type: ignore[no-untyped-def]
    """By how much the price must rise for each holder to leave; infinite for the others."""
    away = value_T.dtype.type(np.inf)
    for t in range(value_T.size):
        margin = value_T[t] - price - cut_T[t]
        distance_T[t] = margin if margin > 0 else away


@jit
def _joining(value_T, price, cut_T, last_T, distance_T):  # type: ignore[no-untyped-def]
    """By how much the price must fall for each other token to join; infinite for the holders."""
    away, zero = value_T.dtype.type(np.inf), value_T.dtype.type(0)
    for t in range(value_T.size):
        net = value_T[t] - price
        missing = last_T[t] - net
        missing = missing if missing > 0 else zero
        distance_T[t] = away if net > cut_T[t] else missing


@jit
def _slopes(value_TA, stride, value_AT, price_A, slots_A, load_A, best_JT, margin_T, least, width_A, slope_AA):  # type: ignore[no-untyped-def]
    """How many tokens change between each two experts per unit of price, from those nearest to changing.

    An expert over capacity looks at the tokens that leave it first, as many as are too many, and where they go; one
    with room at those that join it first, and whence. The last row and column of `slope_AA` are for no expert at all.
    Returns how far prices may be trusted to move.
    """
    alive, tokens = price_A.size, best_JT.shape[1]
    places, wanted_A, most = best_JT.shape[0] - 1, np.empty(alive, np.int64), 0
    for e in range(alive):
        wanted_A[e] = max(abs(load_A[e] - slots_A[e]), int(least * slots_A[e]) + 1)
        most += wanted_A[e]
    # A token changes no earlier than its margin: the others need not be looked at.
    near = reach(margin_T, min(tokens, 2 * most), margin_T.dtype.type(0.1 / alive))
    near_N = np.nonzero(margin_T <= near)[0]
    last_N, cut_N = best_JT[places - 1][near_N], best_JT[places][near_N]
    value_N, distance_N, far = np.empty_like(cut_N), np.empty_like(cut_N), 0.0
    slope_AA[:] = 0
    for e in range(alive):
        over, value_T = load_A[e] - slots_A[e], value_AT[e]
        for n in range(near_N.size):
            value_N[n] = value_T[near_N[n]]
        if over >= 0:
            _leaving(value_N, price_A[e], cut_N, distance_N)
        else:
            _joining(value_N, price_A[e], cut_N, last_N, distance_N)
        other_N = cut_N if over >= 0 else last_N
        width = reach(distance_N, wanted_A[e], width_A[e])
        width_A[e] = width = min(width, near)
        far = max(far, width * min(1.0, abs(over) / wanted_A[e]))
        for start in range(0, near_N.size, NARROW):
            near_B = distance_N[start : start + NARROW]
            if _within(near_B, width):
                for n in range(near_B.size):
                    if near_B[n] <= width:
                        value_A, other, found = value_TA[near_N[start + n] * stride], other_N[start + n], alive
                        for b in range(alive):
                            found = b if (value_A[b] - price_A[b] == other) & (b != e) else found
                        slope_AA[e, found] += 0.5 / width
                        slope_AA[found, e] += 0.5 / width
    return far


@jit
def _solve_in_place(matrix_AA, right_A):  # type: ignore[no-untyped-def]
    """Gaussian elimination of a symmetric positive definite system; the solution into `right_A`."""
    size = right_A.size
    for i in range(size):
        row_A = matrix_AA[i]
        for r in range(i + 1, size):
            factor = row_A[r] / row_A[i]
            if factor != 0:
                other_A = matrix_AA[r]
                for c in range(r, size):
                    other_A[c] -= factor * row_A[c]
                right_A[r] -= factor * right_A[i]
    for i in range(size - 1, -1, -1):
        row_A, rest = matrix_AA[i], right_A[i]
        for c in range(i + 1, size):
            rest -= row_A[c] * right_A[c]
        right_A[i] = rest / row_A[i]


@jit
def _step_together(slope_AA, price_A, slots_A, load_A, damping, step_A):  # type: ignore[no-untyped-def]
    """Newton step: the prices that move the surpluses where there is room, as far as the slopes hold."""
    alive = price_A.size
    matrix_AA, fixed_A = np.empty((alive, alive)), np.empty(alive, np.bool_)
    for e in range(alive):
        fixed_A[e] = price_A[e] <= 0 and load_A[e] < slots_A[e]
    for _ in range(6):
        for e in range(alive):
            total = 0.0
            for b in range(alive + 1):
                total += slope_AA[e, b]
            for b in range(alive):
                matrix_AA[e, b] = -slope_AA[e, b]
            matrix_AA[e, e] = total * (1 + damping) + 0.01
            step_A[e] = load_A[e] - slots_A[e]
        for f in range(alive):  # a price cannot fall below 0: its step is known
            if fixed_A[f]:
                for e in range(alive):
                    step_A[e] += matrix_AA[e, f] * price_A[f] if not fixed_A[e] else 0.0
                matrix_AA[f, :] = 0
                matrix_AA[:, f] = 0
                matrix_AA[f, f] = 1
        for f in range(alive):
            if fixed_A[f]:
                step_A[f] = -price_A[f]
        _solve_in_place(matrix_AA, step_A)
        again = False
        for e in range(alive):
            if not fixed_A[e] and price_A[e] + step_A[e] < 0:
                fixed_A[e] = again = True
        if not again:
            break


@jit
def sweep(  # type: ignore[no-untyped-def]
    value_TA,
    stride,
    value_AT,
    slots_A,
    short,
    price_A,
    best_JT,
    margin_T,
    sweeps,
    alone,
    far,
    least,
    damping,
    up,
    down,
    enough,
):
    """Up to `sweeps` steps of all prices, see `router.sweeps.sweep_prices`; changes `price_A`, `best_JT`, `margin_T`.

    Returns the share of the slots that is over capacity.
    """
    alive, tokens = value_AT.shape
    slots = tokens * (best_JT.shape[0] - 1)
    load_A, step_A, slope_AA = np.empty(alive, np.int64), np.zeros(alive), np.empty((alive + 1, alive + 1))
    width_A = np.full(alive, 0.1 / alive, value_AT.dtype)
    tight, over = slots_A.sum() == slots, 0
    for turn in range(sweeps + 1):
        _best(value_AT, price_A, best_JT)
        _margins(best_JT, short, margin_T)
        cut_T = best_JT[best_JT.shape[0] - 1]
        for e in range(alive):
            load_A[e] = _holders(value_AT[e], price_A[e], cut_T)
        over, idle, paid = 0, 0.0, 0.0
        for e in range(alive):
            over += max(0, load_A[e] - slots_A[e])
            idle += max(0, slots_A[e] - load_A[e]) * price_A[e]
            paid += slots_A[e] * price_A[e]
        if turn == sweeps or (over <= max(enough * slots, alive) and (tight or idle <= enough * paid)):
            break
        limit = np.inf
        if turn < alone and over > far * slots:
            _step_alone(value_AT, cut_T, price_A, slots_A, up, down, step_A)
        else:
            limit = 2 * _slopes(
                value_TA, stride, value_AT, price_A, slots_A, load_A, best_JT, margin_T, least, width_A, slope_AA
            )
            _step_together(slope_AA, price_A, slots_A, load_A, damping[0] + damping[1] * over / slots, step_A)
        for e in range(alive):
            price_A[e] = max(0.0, price_A[e] + min(max(step_A[e], -limit), limit))
        if not short:
            price_A -= price_A.min()
    return over / slots
