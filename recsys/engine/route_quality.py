"""What the routing of a micro-batch means for each answer: the experts behind its items, and what balancing cost it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from recsys.engine.selection import Rows
from recsys.wire import ExpertUse
from router.shapes import RoutingPlan


def explain(item_ids: list[str], tokens: list[int], plans: Sequence[RoutingPlan]) -> tuple[ExpertUse, ...]:
    """Which experts each item's token got in each layer, and how that differs from its wishes."""
    uses = []
    for layer, plan in enumerate(plans):
        for item_id, token in zip(item_ids, tokens, strict=True):
            wished = plan.wishes_TK[token].tolist()
            got = plan.expert_ids_TK[token].tolist()
            used = [e for e in got if e >= 0]
            uses.append(
                ExpertUse(
                    item_id,
                    layer,
                    tuple(used),
                    tuple(g for e, g in zip(got, plan.gates_TK[token].tolist(), strict=True) if e >= 0),
                    tuple(e for e in wished if e >= 0 and e not in used),
                    tuple(e for e in used if e not in wished),
                )
            )
    return tuple(uses)


def route_quality(plans: Sequence[RoutingPlan], found_B: Rows) -> tuple[float, list[float]]:
    """The score kept by the batch, over which the router balances, and each request's own share of redirected slots.

    Tokens are the candidates that are there, request by request.
    """
    kept = sum(float(plan.score_kept) for plan in plans) / len(plans)
    if not any(bool(plan.redirected_TK.any()) for plan in plans):
        return kept, [0.0] * len(found_B)
    redirected_T = torch.stack([plan.redirected_TK for plan in plans]).sum((0, 2)).cpu().numpy()
    slots = sum(plan.redirected_TK.shape[1] for plan in plans)
    until_T = np.concatenate([[0], redirected_T.cumsum()])
    ends_B = found_B.cumsum()
    return kept, ((until_T[ends_B] - until_T[ends_B - found_B]) / (slots * found_B.clip(1))).tolist()
