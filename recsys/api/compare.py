"""One query under two routing policies: both answers, and what differs between them."""

from __future__ import annotations

import time
from typing import cast

import msgspec

from recsys.api.deps import Resources
from recsys.api.engine_client import EngineLostError
from recsys.api.query import Query
from recsys.api.recommend import Known, ask_engine, check_bounds, documented, titled, user_state
from recsys.api.request_ids import new_request_id
from recsys.api.router_schemas import MovedItem, RoutedAnswer, RouterComparison, RoutingDifference
from recsys.api.schemas import Degraded, Explanation, Timing
from recsys.errors import InputError, UnavailableError


async def compare(query: Query, policies: tuple[str, str], budget_s: float, res: Resources) -> RouterComparison:
    """Ask the engine twice, once per policy, for the same user state; each runs in a batch of its own.

    Args:
        query: who asks, under which conditions.
        policies: the first and the second; the same twice shows what differs by itself (nothing should).
        budget_s: for both answers together.
        res: of the process.

    Raises:
        InputError: the query is wrong, or a policy unknown. UnavailableError: no engine, or overloaded.
    """
    began = time.perf_counter()
    check_bounds(query, res)
    await check_known(policies, res)
    query = msgspec.structs.replace(query, priority="batch")  # behind the traffic: it breaks up micro-batches
    known = await user_state(query, res, budget_s)
    if known.failed:
        raise UnavailableError("the user's state cannot be read, so there is nothing to compare")
    first, second = [
        await _routed(query, policy, known, budget_s - (time.perf_counter() - began), res) for policy in policies
    ]
    return RouterComparison(first=first, second=second, difference=difference(first, second))


def difference(first: RoutedAnswer, second: RoutedAnswer) -> RoutingDifference:
    """What changes for the user from the first answer to the second, and what it costs or saves."""
    before = {item.item_id: rank for rank, item in enumerate(first.items, 1)}
    after = {item.item_id: rank for rank, item in enumerate(second.items, 1)}
    union = before.keys() | after.keys()
    return RoutingDifference(
        came=[item for item in after if item not in before],
        went=[item for item in before if item not in after],
        moved=[
            MovedItem(item_id=item, first_rank=before[item], second_rank=rank)
            for item, rank in after.items()
            if item in before and before[item] != rank
        ],
        overlap=len(before.keys() & after.keys()) / len(union) if union else 1.0,
        score_kept=second.degraded.score_kept - first.degraded.score_kept,
        compute_ms=second.timing.compute_ms - first.timing.compute_ms,
    )


async def _routed(query: Query, policy: str, known: Known, left_s: float, res: Resources) -> RoutedAnswer:
    began = time.perf_counter()
    try:
        reply = await ask_engine(query, known, new_request_id(), left_s, res, policy=policy)
    except EngineLostError as error:
        raise UnavailableError(f"{error}, and popular items are routed by no policy") from None
    left_s -= time.perf_counter() - began
    items = await titled(reply.item_ids, reply.scores, res, goals=reply.goals, within_s=left_s)
    return RoutedAnswer(
        policy=reply.policy,
        model_version=reply.model_version,
        items=documented(items),
        degraded=Degraded(step=reply.step, redirected=reply.redirected, score_kept=reply.score_kept),
        cold_start=reply.cold_start,
        timing=Timing(
            total_ms=(time.perf_counter() - began) * 1e3, queue_ms=reply.queue_ms, compute_ms=reply.compute_ms
        ),
        explain=[Explanation(**msgspec.to_builtins(use)) for use in reply.experts] if query.explain else None,
    )


async def check_known(policies: tuple[str, str], res: Resources) -> None:
    """Let pass what an engine published. Without any there is no engine either, which the caller will be told.

    Raises:
        InputError: naming the policy that is unknown.
    """
    stored = cast("str | None", await res.redis.hget(res.keys.router, "policies"))
    known = msgspec.json.decode(stored or "[]", type=list[str])
    for policy in policies:
        if known and policy not in known:
            raise InputError(f"policies: {policy!r} is not one of {', '.join(known)}", field="policies")
