"""The exact optimum of one batch, by linear programming. For tests and offline tables: seconds, not microseconds."""

from __future__ import annotations

from torch import Tensor


def exact_optimum(scores_TE: Tensor, capacity_E: Tensor, k: int) -> float:
    """Largest total score of an assignment with at most k distinct experts per token and `capacity_E` slots per expert.

    Scores are >= 0, so every slot that can be used is used in some optimum. The programme is a transportation problem:
    its vertices are integral, so the optimum is that of whole assignments. Solved by HiGHS through scipy.
    """
    import numpy as np
    from scipy import sparse
    from scipy.optimize import linprog

    tokens, experts = scores_TE.shape
    if not tokens:
        return 0.0
    one = sparse.identity(experts, format="csr")
    per_token = sparse.kron(sparse.identity(tokens), np.ones((1, experts)), format="csr")
    per_expert = sparse.kron(np.ones((1, tokens)), one, format="csr")
    answer = linprog(
        -scores_TE.double().numpy().ravel(),
        A_ub=sparse.vstack([per_token, per_expert], format="csr"),
        b_ub=np.concatenate([np.full(tokens, float(k)), capacity_E.double().numpy()]),
        bounds=(0, 1),
        method="highs",
    )
    if answer.status != 0:
        raise RuntimeError(f"the linear programme was not solved: {answer.message}")
    return -float(answer.fun)
