"""The exact optimum of one batch, by linear programming. For tests and offline tables: seconds, not microseconds."""

from __future__ import annotations

from torch import Tensor


def exact_optimum(scores_TE: Tensor, capacity_E: Tensor, k: int) -> float:
    """Largest total score of an assignment with k distinct experts per token and `capacity_E` slots per expert.

    Where the capacities are too small for that, at most k experts per token. The programme is a transportation problem:
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
    wanted_T, slots_E = np.full(tokens, float(k)), capacity_E.double().numpy()
    if int(capacity_E.clamp_max(tokens).sum()) >= tokens * k:
        bounds = {"A_eq": per_token, "b_eq": wanted_T, "A_ub": per_expert, "b_ub": slots_E}
    else:
        both = sparse.vstack([per_token, per_expert], format="csr")
        bounds = {"A_ub": both, "b_ub": np.concatenate([wanted_T, slots_E])}
    answer = linprog(-scores_TE.double().numpy().ravel(), bounds=(0, 1), method="highs", **bounds)
    if answer.status != 0:
        raise RuntimeError(f"the linear programme was not solved: {answer.message}")
    return -float(answer.fun)
