"""A routing plan from wishes and holdings, one token after the other."""

from __future__ import annotations

from router.compiled import available, jit

if available:
    import numpy as np


@jit
def fill(  # type: ignore[no-untyped-def]
    scores_TE,
    choice_TE,
    expert_A,
    wish_KT,
    held_KT,
    wishes_TK,
    ids_TK,
    gates_TK,
    rank_TK,
    redirected_TK,
    demand_E,
    load_E,
):
    """Wishes, ids with a wish that came true in the wish's slot, gates, ranks, loads.

    Args:
        scores_TE: what gates are made of.
        choice_TE: what choices were made by.
        expert_A: numbers of the living experts.
        wish_KT: experts.
        held_KT: positions in `expert_A`, -1 = nothing.
        wishes_TK: and the rest, of a plan, written.

    Returns:
        Value of the wishes and of what is held.
    """
    tokens, k = ids_TK.shape
    wish_K, held_K, kept_K = np.empty(k, np.int64), np.empty(k, np.int64), np.empty(k, np.bool_)
    wished = kept = 0.0
    demand_E[:] = 0
    load_E[:] = 0
    for t in range(tokens):
        for j in range(k):
            held = held_KT[j, t] if j < held_KT.shape[0] else -1
            wish_K[j], held_K[j], kept_K[j] = wish_KT[j, t], expert_A[held] if held >= 0 else -1, False
        for i in range(k):
            for j in range(k):
                if held_K[j] == wish_K[i] and held_K[j] >= 0:
                    kept_K[i] = True
                    held_K[j] = held_K[i]
                    held_K[i] = wish_K[i]
        total = scores_TE.dtype.type(0)
        for j in range(k):
            wish, e = wish_K[j], held_K[j]
            redirected_TK[t, j] = e >= 0 and not kept_K[j]
            wishes_TK[t, j] = wish
            demand_E[wish] += 1
            wished += choice_TE[t, wish]
            gates_TK[t, j] = 0
            ids_TK[t, j] = rank_TK[t, j] = -1
            if e >= 0:
                kept += choice_TE[t, e]
                ids_TK[t, j] = e
                rank_TK[t, j] = load_E[e]
                load_E[e] += 1
                gates_TK[t, j] = scores_TE[t, e] + scores_TE.dtype.type(1e-30)
                total += gates_TK[t, j]
        for j in range(k):
            if ids_TK[t, j] >= 0:
                gates_TK[t, j] /= total
    return wished, kept
