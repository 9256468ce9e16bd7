"""The exact end of price routing: shortest chains of moves, with prices that follow them.

Tokens hold what they prefer at the prices of the sweeps, so moving one from expert a to expert b costs
`value_a - price_a - (value_b - price_b) >= 0`. A chain from an expert over capacity to one with room, cheapest first,
keeps every such cost >= 0 if the prices of the experts nearer than its end rise by what they are nearer: those that
share their tokens rise together. After the last chain the assignment is the optimum, and the prices prove it.

Successive shortest paths with potentials for min-cost flow (Jewell 1958; Edmonds and Karp 1972; Dijkstra 1959), on a
graph of experts instead of tokens. Where slots are short, one more expert of value and price 0 stands for "none".
"""

from __future__ import annotations

from router.compiled import available, jit

if available:
    import numpy as np

WORK_MAX = 200_000_000  # moves looked at in a batch; bursts need a hundredth, only batches of equal tokens as many
TINY = 1e-12
WIDER, MOST = 2.5, 1.0  # when those within reach do not suffice: how much further, and from where on every token


@jit
def _cheapest(own, value_A, member, cost_A, mover_A):  # type: ignore[no-untyped-def]
    for b in range(value_A.size):
        cost = own - value_A[b]
        nearer = cost < cost_A[b]
        cost_A[b] = cost if nearer else cost_A[b]
        mover_A[b] = member if nearer else mover_A[b]


@jit
def _scan(a, value_TA, id_KT, member_AM, members_A, cost_AA, mover_AA):  # type: ignore[no-untyped-def]
    """The cheapest move from expert a to every other: what it costs in value, and whose it is."""
    (tokens, alive), places = value_TA.shape, id_KT.shape[0]
    cost_A, mover_A = cost_AA[a, :alive], mover_AA[a, :alive]
    cost_AA[a, :] = np.inf
    mover_AA[a, :] = -1
    held_cost_K, held_mover_K = np.empty(places, cost_AA.dtype), np.empty(places, np.int32)
    for m in range(members_A[a]):
        token, member = member_AM[a, m] % tokens, np.int32(m)
        value_A = value_TA[token]
        own = value_A[a] if a < alive else value_A.dtype.type(0)
        for j in range(places):  # what the token holds is put back afterwards, so that the loop between has no branch
            h = id_KT[j, token]
            if h >= 0:
                held_cost_K[j], held_mover_K[j] = cost_A[h], mover_A[h]
        _cheapest(own, value_A, member, cost_A, mover_A)
        for j in range(places):
            h = id_KT[j, token]
            if h >= 0:
                cost_A[h], mover_A[h] = held_cost_K[j], held_mover_K[j]
        if a < alive and own < cost_AA[a, alive]:
            cost_AA[a, alive], mover_AA[a, alive] = own, member


@jit
def _list_members(id_KT, margin_T, reach, short, member_AM, members_A):  # type: ignore[no-untyped-def]
    """Slots (slot * T + token) of the tokens within reach by the expert that holds them."""
    places, tokens = id_KT.shape
    members_A[:] = 0
    for j in range(places):
        for t in range(tokens):
            if margin_T[t] <= reach:
                a = id_KT[j, t]
                if a < 0:
                    if not short:
                        continue
                    a = np.int32(members_A.size - 1)
                member_AM[a, members_A[a]] = j * tokens + t
                members_A[a] += 1


@jit
def _nearest(distance_A, done_A):  # type: ignore[no-untyped-def]
    found, least = -1, np.inf
    for a in range(distance_A.size):
        if not done_A[a] and distance_A[a] < least:
            found, least = a, distance_A[a]
    return found


@jit
def _relax(cost_A, lam_A, lam, here, a, distance_A, before_A):  # type: ignore[no-untyped-def]
    """What is nearer by a move from expert a, at distance `here` and price `lam`."""
    for b in range(distance_A.size):
        cost = cost_A[b] + lam_A[b] - lam
        through = here + (cost if cost > 0 else 0.0)
        nearer = through < distance_A[b]
        distance_A[b] = through if nearer else distance_A[b]
        before_A[b] = a if nearer else before_A[b]


@jit
def _move_along(path_N, value_TA, id_KT, member_AM, members_A, cost_AA, mover_AA, margin_T, stale_A):  # type: ignore[no-untyped-def]
    """Move one token along each edge of the path. Experts whose cheapest moves change become stale."""
    tokens, none, coming = id_KT.shape[1], members_A.size - 1, np.int32(-1)
    for i in range(path_N.size):
        a = path_N[i]
        stale_A[a] = True
        if i == path_N.size - 1:
            member_AM[a, members_A[a]] = coming
            members_A[a] += 1
            break
        b = path_N[i + 1]
        m = mover_AA[a, b]
        slot = member_AM[a, m]
        token = slot % tokens
        margin_T[token] = 0
        id_KT[slot // tokens, token] = b if b < none else -1
        if i == 0:
            members_A[a] -= 1
            coming = member_AM[a, members_A[a]]
        member_AM[a, m] = coming
        for j in range(id_KT.shape[0]):  # from the others it holds, the token can go back to a, and no longer to b
            h = id_KT[j, token] if id_KT[j, token] >= 0 else none
            lost = mover_AA[h, b]
            back = (value_TA[token, h] if h < none else 0) - (value_TA[token, a] if a < none else 0)
            if (lost >= 0 and member_AM[h, lost] % tokens == token) or back < cost_AA[h, a]:
                stale_A[h] = True
        coming = slot


@jit
def _give_free(id_KT, room_A):  # type: ignore[no-untyped-def]
    """Room left where slots are short has no price: tokens that miss a slot take it, at no loss."""
    places, tokens = id_KT.shape
    for a in range(room_A.size - 1):
        for t in range(tokens if room_A[a] > 0 else 0):
            missing = -1
            for j in range(places):
                if id_KT[j, t] == a:
                    missing = -1
                    break
                if id_KT[j, t] < 0:
                    missing = j
            if missing >= 0 and room_A[a] > 0:
                id_KT[missing, t] = a
                room_A[a] -= 1


@jit
def _hand_over(value_TA, id_KT, room_A):  # type: ignore[no-untyped-def]
    """What is still over capacity moves straight to room, those who lose least first. Bounded, and not the optimum."""
    (tokens, alive), places = value_TA.shape, id_KT.shape[0]
    loss_T, place_T = np.empty(tokens, value_TA.dtype), np.empty(tokens, np.int64)
    for a in range(alive):
        if room_A[a] >= 0:
            continue
        holders = 0
        token_T = np.empty(tokens, np.int64)
        for t in range(tokens):
            for j in range(places):
                if id_KT[j, t] == a:
                    loss, _ = _next_best(value_TA, id_KT, room_A, t, a)
                    loss_T[holders], place_T[holders], token_T[holders] = loss, j, t
                    holders += 1
        for n in np.argsort(loss_T[:holders], kind="mergesort"):
            if room_A[a] >= 0:
                break
            loss, b = _next_best(value_TA, id_KT, room_A, token_T[n], a)
            if b >= 0:
                id_KT[place_T[n], token_T[n]] = b if b < alive else -1
                room_A[a] += 1
                room_A[b] -= 1


@jit
def _next_best(value_TA, id_KT, room_A, t, a):  # type: ignore[no-untyped-def]
    """Where a token of expert a loses least, among those with room that it does not hold: (loss, expert or -1)."""
    alive = value_TA.shape[1]
    best, found = np.inf, -1
    for b in range(alive + 1):
        if room_A[b] <= 0:
            continue
        held = False
        for j in range(id_KT.shape[0] if b < alive else 0):
            held |= id_KT[j, t] == b
        loss = value_TA[t, a] - (value_TA[t, b] if b < alive else 0)
        if not held and loss < best:
            best, found = loss, b
    return best, found


@jit
def _dual_gap(value_TA, slots_A, short, price_A, id_KT):  # type: ignore[no-untyped-def]
    """How far the total value is from the dual value at these prices, hence from the optimum at most."""
    (tokens, alive), places = value_TA.shape, id_KT.shape[0]
    gap, best_K = 0.0, np.empty(places, np.float64)
    for a in range(alive):
        gap += slots_A[a] * price_A[a]
    for t in range(tokens):
        best_K[:] = 0.0 if short else -np.inf
        for a in range(alive):
            worth = value_TA[t, a] - price_A[a]
            for j in range(places):
                if worth > best_K[j]:
                    worth, best_K[j] = best_K[j], worth
        for j in range(places):
            gap += best_K[j]
            if id_KT[j, t] >= 0:
                gap -= value_TA[t, id_KT[j, t]]
    return max(0.0, gap)


@jit
def settle(value_TA, slots_A, short, tight, price_A, id_KT, load_A, margin_T, reach, work_max):  # type: ignore[no-untyped-def]
    """Make a preferred but unbalanced choice fit, at the least cost. Changes all but the first four arguments.

    Args:
        value_TA: what an expert is worth to a token.
        slots_A: slots per expert.
        short: whether they are too few for every token.
        tight: whether none is to spare.
        price_A: prices at which the tokens prefer what they hold, float64; those of the result come out.
        id_KT: who holds what, -1 = nothing.
        load_A: how many hold each expert.
        margin_T: by how much a token prefers the last it holds to the next best.
        reach: tokens with a larger margin are looked at only if prices move that far.
        work_max: after so many moves looked at, what is left goes straight to room; the result may miss the optimum.

    Returns:
        The number of chains, and how far the total value may be from the optimum at most.
    """
    places, tokens = id_KT.shape
    alive = slots_A.size
    nodes = alive + 1
    room_A = np.empty(nodes, np.int64)
    most, left = 0, places * tokens
    for a in range(alive):
        room_A[a] = slots_A[a] - load_A[a]
        most = max(most, load_A[a], slots_A[a])
        left -= min(slots_A[a], load_A[a])
    room_A[alive] = left if short else 0
    member_AM = np.empty((nodes, max(most, left if short else 0) + 1), np.int32)
    members_A = np.zeros(nodes, np.int64)
    cost_AA, mover_AA = np.empty((nodes, nodes), value_TA.dtype), np.empty((nodes, nodes), np.int32)
    stale_A, done_A = np.ones(nodes, np.bool_), np.empty(nodes, np.bool_)
    distance_A, before_A, path_A = np.empty(nodes), np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    lam_A = np.zeros(nodes)
    lam_A[:alive] = price_A
    if not short:
        lam_A[alive] = np.inf
    _list_members(id_KT, margin_T, reach, short, member_AM, members_A)
    chains, work, exact = 0, 0, True
    while True:
        surplus = idle = False
        for a in range(alive):
            surplus |= room_A[a] < 0
            idle |= room_A[a] > 0 and lam_A[a] > TINY
        if not surplus and not (idle and not tight):
            break
        if work >= work_max and exact:
            exact, reach = False, np.inf
            _hand_over(value_TA, id_KT, room_A)
            margin_T[:] = 0
            _list_members(id_KT, margin_T, reach, short, member_AM, members_A)
            stale_A[:] = True
            continue
        if not surplus and not exact:
            break
        for a in range(nodes):
            if stale_A[a]:
                _scan(a, value_TA, id_KT, member_AM, members_A, cost_AA, mover_AA)
                work += (members_A[a] + nodes) * nodes
                stale_A[a] = False
            done_A[a] = False
            before_A[a] = -1
            distance_A[a] = (
                0.0 if (room_A[a] < 0 if surplus else a < alive and room_A[a] > 0 and lam_A[a] > TINY) else np.inf
            )
        # From surplus to room; or backwards, from idle room that is priced to where a slot costs nothing.
        end, length = -1, np.inf
        while True:
            a = _nearest(distance_A, done_A)
            if a < 0 or distance_A[a] >= length:
                break
            done_A[a] = True
            here = distance_A[a]
            if surplus:
                if room_A[a] > 0:
                    end, length = a, here
                    break
                _relax(cost_AA[a], lam_A, lam_A[a], here, a, distance_A, before_A)
            else:
                if here + lam_A[a] < length:
                    end, length = a, here + lam_A[a]
                for b in range(nodes):
                    if cost_AA[b, a] < np.inf:
                        through = here + max(0.0, cost_AA[b, a] + lam_A[a] - lam_A[b])
                        if through < distance_A[b]:
                            distance_A[b], before_A[b] = through, a
        low = high = 0.0  # how far prices have moved apart
        for a in range(alive):
            rise = max(0.0, length - distance_A[a]) if end >= 0 else 0.0
            rise = lam_A[a] + (rise if surplus else -rise) - price_A[a]
            low, high = min(low, rise), max(high, rise)
        if reach == np.inf and end < 0:
            break
        if end < 0 or high - low > reach:
            reach = WIDER * reach if reach < MOST else np.inf
            _list_members(id_KT, margin_T, reach, short, member_AM, members_A)
            stale_A[:] = True
            continue
        for a in range(alive):
            if distance_A[a] < length:
                lam_A[a] = (
                    lam_A[a] + length - distance_A[a] if surplus else max(0.0, lam_A[a] - (length - distance_A[a]))
                )
        steps, a = 0, end
        while a >= 0:
            path_A[steps] = a
            steps += 1
            a = before_A[a]
        if surplus:
            path_A[:steps] = path_A[:steps][::-1].copy()
        if steps > 1:
            room_A[path_A[0]] += 1
            room_A[path_A[steps - 1]] -= 1
            _move_along(path_A[:steps], value_TA, id_KT, member_AM, members_A, cost_AA, mover_AA, margin_T, stale_A)
            chains += 1
    if short:
        _give_free(id_KT, room_A)
    slack, unproved = 0.0, 0.0
    low = np.inf
    for a in range(alive):
        low = min(low, lam_A[a])
        load_A[a] = slots_A[a] - room_A[a]
    for a in range(alive):
        price_A[a] = lam_A[a] - (0.0 if short else low)
        unproved += room_A[a] * price_A[a]
    if not exact:
        return chains, _dual_gap(value_TA, slots_A, short, price_A, id_KT)
    for a in range(nodes):
        if stale_A[a]:
            _scan(a, value_TA, id_KT, member_AM, members_A, cost_AA, mover_AA)
        for b in range(nodes):
            if a != b and cost_AA[a, b] < np.inf:
                slack = max(slack, lam_A[a] - lam_A[b] - cost_AA[a, b])
    return chains, unproved + slack * places * tokens
