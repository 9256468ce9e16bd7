"""Who holds what at the prices of the sweeps: what is named best, and where experts are equally good, the roomiest."""

from __future__ import annotations

from router.compiled import available, jit

if available:
    import numpy as np


@jit
def _roomiest(value_AT, slots_A, short, price_A, cut, held_J, load_A, t):  # type: ignore[no-untyped-def]
    """Of the experts at the cut-off of token t, one that it does not hold; -1 where none is as good."""
    chosen, most = np.int32(-1), 0 if short and cut == 0 else np.iinfo(np.int64).min
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
    """Settles in `id_KT`, which names the best of each token, who holds what, -1 for nothing: of experts equally good
    to a token, those with most room. Returns how many slots are over capacity.
    """
    places, tokens = id_KT.shape
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
    over = 0
    for e in range(slots_A.size):
        over += max(0, load_A[e] - slots_A[e])
    return over
