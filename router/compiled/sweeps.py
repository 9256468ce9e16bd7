"""Prices by sweeps over the tokens: see `router.sweeps` for the method.

Arrays stand experts first, so that every loop over tokens vectorises. Letters: A experts alive, J = k + 1 best of a
token (the last is its cut-off).
"""

from __future__ import annotations

from router.compiled import available, jit

if available:
    import numpy as np

BLOCK = 512  # tokens whose running maxima stay in the first-level cache
HALVINGS = 14
NARROW = 64  # tokens that are skipped together where none is near


@jit
def _take_larger(best_T, net_T):  # type: ignore[no-untyped-def]
    """The larger of each pair into `best_T`, the smaller into `net_T`."""
    for t in range(best_T.size):
        best, net = best_T[t], net_T[t]
        best_T[t] = best if best > net else net
        net_T[t] = net if best > net else best


@jit
def _best(value_AT, price_A, floor, best_JT):  # type: ignore[no-untyped-def]
    """The largest values of value - price of each token, at least `floor`, falling, into `best_JT`."""
    alive, tokens = value_AT.shape
    best_JT[:] = floor
    net_B = np.empty(BLOCK, value_AT.dtype)
    for start in range(0, tokens, BLOCK):
        stop = min(tokens, start + BLOCK)
        net_T = net_B[: stop - start]
        for e in range(alive):
            value_T, price = value_AT[e, start:stop], price_A[e]
            for t in range(net_T.size):
                net_T[t] = value_T[t] - price
            for j in range(best_JT.shape[0]):
                _take_larger(best_JT[j, start:stop], net_T)


@jit
def _name(value_AT, price_A, best_JT, id_KT):  # type: ignore[no-untyped-def]
    """Whose the best values are: expert numbers into `id_KT`, -1 for a floor. Equal values: rising numbers."""
    alive, tokens = value_AT.shape
    id_KT[:] = -1
    net_B = np.empty(BLOCK, value_AT.dtype)
    for start in range(0, tokens, BLOCK):
        stop = min(tokens, start + BLOCK)
        net_T = net_B[: stop - start]
        for e in range(alive - 1, -1, -1):
            value_T, price, expert = value_AT[e, start:stop], price_A[e], np.int32(e)
            for t in range(net_T.size):
                net_T[t] = value_T[t] - price
            best_T, id_T = best_JT[0, start:stop], id_KT[0, start:stop]
            for t in range(net_T.size):
                id_T[t] = expert if net_T[t] == best_T[t] else id_T[t]
    for j in range(1, id_KT.shape[0]):
        for start in range(0, tokens, BLOCK):
            stop = min(tokens, start + BLOCK)
            net_T = net_B[: stop - start]
            best_T, above_T = best_JT[j, start:stop], best_JT[j - 1, start:stop]
            id_T, before_T = id_KT[j, start:stop], id_KT[j - 1, start:stop]
            for e in range(alive - 1, -1, -1):
                value_T, price, expert = value_AT[e, start:stop], price_A[e], np.int32(e)
                for t in range(net_T.size):
                    net = value_T[t] - price
                    taken = (best_T[t] == above_T[t]) & (expert <= before_T[t])
                    id_T[t] = expert if (net == best_T[t]) & (not taken) else id_T[t]


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
    _best(value_AT, np.zeros(value_AT.shape[0], value_AT.dtype), value_AT.dtype.type(-np.inf), best_JT)
    _name(value_AT, np.zeros(value_AT.shape[0], value_AT.dtype), best_JT, id_KT)
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
def _load(value_AT, price_A, cut_T, load_A):  # type: ignore[no-untyped-def]
    for e in range(value_AT.shape[0]):
        value_T, price, count = value_AT[e], price_A[e], np.int32(0)
        for t in range(value_T.size):
            count += np.int32(value_T[t] - price > cut_T[t])
        load_A[e] = count


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
def _reach(distance_T, wanted, width):  # type: ignore[no-untyped-def]
    """A width within which about `wanted` tokens are, starting from a guess, and how many there are."""
    real = distance_T.dtype.type
    low, high, count = real(0), real(4), np.int32(0)
    for _ in range(HALVINGS):
        count = _within(distance_T, width)
        if abs(count - wanted) <= 0.3 * wanted:
            break
        if count < wanted:
            low = width
            width = min(width * real(min(4.0, 1.1 * wanted / max(count, 1))), (low + high) / real(2))
        else:
            high = width
            width = max(width * real(max(0.05, 0.9 * wanted / count)), (low + high) / real(2) if low > 0 else real(0))
    return max(width, real(1e-7)), count


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
def _slopes(value_TA, stride, value_AT, price_A, slots_A, load_A, best_JT, least, width_A, slope_AA):  # type: ignore[no-untyped-def]
    """How many tokens change between each two experts per unit of price, from those nearest to changing.

    An expert over capacity looks at the tokens that leave it first, as many as are too many, and where they go; one
    with room at those that join it first, and whence. The last row and column of `slope_AA` are for no expert at all.
    Returns how far prices may be trusted to move.
    """
    alive, tokens = value_AT.shape
    places = best_JT.shape[0] - 1
    last_T, cut_T = best_JT[places - 1], best_JT[places]
    distance_T, far = np.empty(tokens, value_AT.dtype), 0.0
    slope_AA[:] = 0
    for e in range(alive):
        over = load_A[e] - slots_A[e]
        wanted = max(abs(over), int(least * slots_A[e]) + 1)
        if over >= 0:
            _leaving(value_AT[e], price_A[e], cut_T, distance_T)
        else:
            _joining(value_AT[e], price_A[e], cut_T, last_T, distance_T)
        other_T = cut_T if over >= 0 else last_T
        width, count = _reach(distance_T, wanted, width_A[e])
        width_A[e] = width
        if not count:
            continue
        far = max(far, width * min(1.0, abs(over) / wanted))
        for start in range(0, tokens, NARROW):
            near_T = distance_T[start : start + NARROW]
            if _within(near_T, width):
                for t in range(near_T.size):
                    if near_T[t] <= width:
                        value_A, other = value_TA[(start + t) * stride], other_T[start + t]
                        found = alive
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
    value_TA, stride, value_AT, slots_A, short, price_A, best_JT, sweeps, alone, far, least, damping, up, down, enough
):
    """Up to `sweeps` steps of all prices, see `router.sweeps.sweep_prices`; changes `price_A` and `best_JT`.

    Returns how far from changing the tokens were that the last step looked at.
    """
    alive, tokens = value_AT.shape
    slots, floor = tokens * (best_JT.shape[0] - 1), value_AT.dtype.type(0 if short else -np.inf)
    load_A, step_A, slope_AA = np.empty(alive, np.int64), np.zeros(alive), np.empty((alive + 1, alive + 1))
    width_A = np.full(alive, 0.1 / alive, value_AT.dtype)
    tight = slots_A.sum() <= slots
    for turn in range(sweeps + 1):
        _best(value_AT, price_A, floor, best_JT)
        cut_T = best_JT[best_JT.shape[0] - 1]
        _load(value_AT, price_A, cut_T, load_A)
        over, idle, paid = 0, 0.0, 0.0
        for e in range(alive):
            over += max(0, load_A[e] - slots_A[e])
            idle += max(0, slots_A[e] - load_A[e]) * price_A[e]
            paid += slots_A[e] * price_A[e]
        if turn == sweeps or (over <= enough * slots and (tight or idle <= enough * paid)):
            break
        limit = np.inf
        if turn < alone and over > far * slots:
            _step_alone(value_AT, cut_T, price_A, slots_A, up, down, step_A)
        else:
            limit = 2 * _slopes(value_TA, stride, value_AT, price_A, slots_A, load_A, best_JT, least, width_A, slope_AA)
            _step_together(slope_AA, price_A, slots_A, load_A, damping[0] + damping[1] * over / slots, step_A)
        for e in range(alive):
            price_A[e] = max(0.0, price_A[e] + min(max(step_A[e], -limit), limit))
        if not short:
            price_A -= price_A.min()
    return width_A.max()


@jit
def _roomiest(value_AT, slots_A, short, price_A, cut, held_J, load_A, t):  # type: ignore[no-untyped-def]
    """Of the experts at the cut-off of token t, one that it does not hold; -1 where none is as good."""
    chosen, most = np.int32(-1), 0 if short else np.iinfo(np.int64).min
    for e in range(slots_A.size):
        if value_AT[e, t] - price_A[e] == cut and slots_A[e] - load_A[e] > most:
            free = True
            for h in held_J:
                free &= h != e
            if free:
                chosen, most = np.int32(e), slots_A[e] - load_A[e]
    return chosen


@jit
def hold(value_AT, slots_A, short, price_A, best_JT, id_KT, load_A):  # type: ignore[no-untyped-def]
    """Who holds what at these prices, -1 for nothing; of experts equally good to a token, those with most room."""
    places, tokens = id_KT.shape
    _name(value_AT, price_A, best_JT, id_KT)
    load_A[:] = 0
    cut_T = best_JT[places]
    for j in range(places):
        for t in range(tokens):
            if best_JT[j, t] > cut_T[t]:
                load_A[id_KT[j, t]] += 1
    for t in range(tokens):
        if best_JT[places - 1, t] == cut_T[t]:
            for j in range(places):
                if best_JT[j, t] == cut_T[t]:
                    id_KT[j, t] = _roomiest(value_AT, slots_A, short, price_A, cut_T[t], id_KT[:j, t], load_A, t)
                    if id_KT[j, t] >= 0:
                        load_A[id_KT[j, t]] += 1
