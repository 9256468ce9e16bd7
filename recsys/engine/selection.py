"""Which items may be in an answer, and which of the scored ones are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import logsigmoid

from recsys.engine.catalogue import Catalogue
from recsys.errors import InputError
from recsys.wire import Filters, RankRequest

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
NO_FILTERS = Filters()


def eligible_rows(request: RankRequest, catalogue: Catalogue, seen: Sequence[int]) -> NDArray[np.bool_]:
    """Rows of the catalogue that this answer may hold: live, filtered, not excluded, not in the history (`seen`)."""
    mask_I = catalogue.live_I.copy()
    if request.filters != NO_FILTERS:
        mask_I &= meets(request.filters, catalogue)
    barred = catalogue.rows(request.exclude)
    if request.exclude_seen:
        barred += seen
    mask_I[barred] = False  # unknown ids are row 0, which is never eligible anyway
    return mask_I


def meets(filters: Filters, catalogue: Catalogue) -> NDArray[np.bool_]:
    """Rows that meet all conditions. An item without a year meets no bound on years."""
    mask_I = np.ones(len(catalogue.live_I), dtype=bool)
    if filters.categories_any:
        mask_I &= catalogue.in_any_category(filters.categories_any)
    if filters.categories_none:
        mask_I &= ~catalogue.in_any_category(filters.categories_none)
    if filters.year_min is not None:
        mask_I &= catalogue.has_year_I & (catalogue.year_I >= filters.year_min)
    if filters.year_max is not None:
        mask_I &= catalogue.has_year_I & (catalogue.year_I <= filters.year_max)
    return mask_I


def goal_weights(goals: Mapping[str, float], known: tuple[str, ...]) -> Floats:
    """Weights over the model's goals, default all on the first.

    Raises:
        InputError: an unknown goal, or no weight other than zero.
    """
    for name in goals:
        if name not in known:
            raise InputError(f"goals: {name!r} is not one of {', '.join(known)}", field="goals")
    weights_G = np.array([goals.get(name, 0.0) for name in known])
    if not goals:
        weights_G[0] = 1.0
    if not weights_G.any():
        raise InputError("goals: at least one weight must not be zero", field="goals")
    return weights_G


def fuse_goals(logits_NG: Floats, weights_G: Floats) -> tuple[Floats, Floats]:
    """One score per candidate, the weighted geometric mean of the goals' probabilities, as a logarithm; and theirs.

    Large logits still differ in logarithms; weights multiply them, so that a goal of weight 2 counts twice and a
    negative one pushes away. A batch of requests may stand in front of both.
    """
    log_p_NG = logsigmoid(torch.from_numpy(logits_NG)).numpy()  # far faster than what NumPy has for it
    share_G = weights_G / np.abs(weights_G).sum(axis=-1, keepdims=True)
    return (log_p_NG @ share_G[..., None])[..., 0], log_p_NG


def pick(log_score_N: Floats, vectors_ND: NDArray[np.float32], k: int, diversity: float) -> Rows:
    """Positions of the k best candidates, best first, ties by position.

    With `diversity` > 0, maximal marginal relevance (Carbonell & Goldstein 1998): each next item trades its own
    score, scaled to [0, 1], against its largest cosine to those already chosen.
    """
    order_N = np.argsort(-log_score_N, kind="stable")
    if diversity <= 0 or min(k, len(order_N)) <= 1:
        return order_N[:k]
    pool = order_N[: max(4 * k, 50)]
    relevance = log_score_N[pool]
    span = relevance.max() - relevance.min()
    relevance = (relevance - relevance.min()) / span if span > 0 else np.ones_like(relevance)
    unit = vectors_ND[pool].astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    nearest = np.zeros(len(pool))
    free = np.ones(len(pool), dtype=bool)
    chosen: list[int] = []
    for _ in range(min(k, len(pool))):
        value = np.where(free, (1 - diversity) * relevance - diversity * nearest, -np.inf)
        best = int(value.argmax())
        chosen.append(best)
        free[best] = False
        nearest = np.maximum(nearest, unit @ unit[best])
    return pool[chosen]
