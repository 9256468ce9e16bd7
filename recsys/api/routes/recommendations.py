"""`POST /v1/recommendations`: user state from Redis, the ranking from the engine, popular items if there is none."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from redis.exceptions import RedisError
from starlette.responses import Response

from recsys.api import limits
from recsys.api.deps import Res, Resources
from recsys.api.engine_client import EngineLostError
from recsys.api.problems import describe
from recsys.api.schemas import (
    Degraded,
    Explanation,
    RecommendationAnswer,
    RecommendationRequest,
    RecommendedItem,
    Timing,
)
from recsys.errors import InputError, OverloadedError
from recsys.wire import Filters, RankReply, RankRequest

routes = APIRouter(prefix="/v1", tags=["recommendations"])

ANSWER_MARGIN_S = 0.01  # what the API itself needs after the engine's reply


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the asking user."""

    history: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    failed: bool = False


@routes.post("/recommendations", responses=describe(413, 422, 503))
async def recommend(
    body: RecommendationRequest, request: Request, response: Response, res: Res
) -> RecommendationAnswer:
    """Items for a user, best first."""
    began = time.perf_counter()
    config = res.settings.api
    _check_bounds(body, res)
    budget_s = limits.deadline_s(request, default_ms=config.deadline_ms, most_ms=config.deadline_ms_max)
    request_id = uuid.uuid4().hex
    known = await _user_state(body, res, budget_s)
    state_s = time.perf_counter() - began
    try:
        reply = await _ask_engine(body, known, request_id, budget_s - state_s, res)
        answer = await _from_engine(body, reply, res)
        if known.failed:
            answer.fallback = "the user's state cannot be read, so the answer is not personal"
    except EngineLostError as error:
        answer = _from_popular(body, known, request_id, str(error), res)
    answer.request_id = request_id
    answer.timing.state_ms = state_s * 1e3
    answer.timing.total_ms = (time.perf_counter() - began) * 1e3
    if config.impressions and body.user_id is not None and answer.items:
        res.impressions.add(request_id, body.user_id, tuple(item.item_id for item in answer.items))
    return answer


def _check_bounds(body: RecommendationRequest, res: Resources) -> None:
    config = res.settings.api
    if body.k > config.k_max:
        raise InputError(f"k: {body.k}, at most {config.k_max}", field="k")
    if body.candidates is not None and len(body.candidates) > config.candidates_max:
        raise InputError(
            f"candidates: {len(body.candidates)} items, at most {config.candidates_max}", field="candidates"
        )
    if body.user_id is None and body.history is None:
        raise InputError("user_id: name a user_id, a history or both", field="user_id")


async def _user_state(body: RecommendationRequest, res: Resources, budget_s: float) -> _Known:
    """History as named or as stored. A failing Redis costs at most half the budget, and the personal touch."""
    known = _Known()
    if body.user_id is not None:
        try:
            async with asyncio.timeout(budget_s / 2):
                user = await res.users.get_user(body.user_id)
            known = _Known(
                tuple(entry.item_id for entry in user.history),
                tuple(entry.kind for entry in user.history),
                user.hidden,
            )
        except (RedisError, TimeoutError):
            known = _Known(failed=body.history is None)
    if body.history is not None:
        return _Known(tuple(body.history), ("click",) * len(body.history), known.hidden)
    return known


async def _ask_engine(
    body: RecommendationRequest, known: _Known, request_id: str, left_s: float, res: Resources
) -> RankReply:
    """The engine's reply if it answered.

    Raises:
        EngineLostError: fall back. OverloadedError: refuse. InputError: the request is wrong.
    """
    question = RankRequest(
        id=request_id,
        time_left_ms=max(0.0, left_s - ANSWER_MARGIN_S) * 1e3,
        k=body.k,
        history=known.history,
        history_kinds=known.kinds,
        candidates=None if body.candidates is None else tuple(body.candidates),
        exclude=tuple(body.exclude_items) + known.hidden,
        exclude_seen=body.exclude_seen,
        filters=Filters(
            tuple(body.filters.categories_any),
            tuple(body.filters.categories_none),
            body.filters.year_min,
            body.filters.year_max,
        ),
        diversity=body.diversity,
        goals=body.goals,
        explain=body.explain,
        priority=0 if body.priority == "interactive" else 1,
    )
    reply = await res.engine.ask(question, timeout_s=max(0.001, left_s))
    match reply.status:
        case "ok":
            return reply
        case "invalid":
            raise InputError(reply.error, field=reply.error.split(":", 1)[0])
        case "refused" | "expired":
            raise OverloadedError(f"the engine is overloaded: {reply.error}", retry_after_s=reply.retry_after_s or 1.0)
        case _:
            raise EngineLostError(f"the engine failed: {reply.error}")


async def _from_engine(body: RecommendationRequest, reply: RankReply, res: Resources) -> RecommendationAnswer:
    explain = None
    if body.explain:
        explain = [
            Explanation(
                item_id=use.item_id,
                layer=use.layer,
                experts=list(use.experts),
                gates=list(use.gates),
                redirected_from=list(use.redirected_from),
                redirected_to=list(use.redirected_to),
            )
            for use in reply.experts
        ]
    return RecommendationAnswer(
        request_id="",
        items=await titled([(i.item_id, i.score, i.goals) for i in reply.items], res),
        model_version=reply.model_version,
        policy=reply.policy,
        degraded=Degraded(step=reply.step, redirected=reply.redirected, score_kept=reply.score_kept),
        cold_start=reply.cold_start,
        timing=Timing(total_ms=0, queue_ms=reply.queue_ms, compute_ms=reply.compute_ms),
        explain=explain,
    )


def _from_popular(
    body: RecommendationRequest, known: _Known, request_id: str, reason: str, res: Resources
) -> RecommendationAnswer:
    res.metrics.fallbacks.labels(reason.split(":", 1)[0]).inc()
    barred = {*body.exclude_items, *known.hidden, *(known.history if body.exclude_seen else ())}
    return RecommendationAnswer(
        request_id=request_id,
        items=res.fallback.pick(
            body.k,
            filters=body.filters,
            exclude=barred,
            candidates=None if body.candidates is None else set(body.candidates),
        ),
        model_version="",
        policy="",
        degraded=Degraded(),
        cold_start=not known.history,
        fallback=f"{reason}; these are popular items",
        timing=Timing(total_ms=0),
    )


async def titled(scored: Sequence[tuple[str, float, dict[str, float]]], res: Resources) -> list[RecommendedItem]:
    """Items of an answer with their titles; an answer without titles is better than none when Redis is away."""
    try:
        known = await res.items.get([item_id for item_id, _, _ in scored])
    except RedisError:
        known = {}
    answer = []
    for item_id, score, goals in scored:
        item = known.get(item_id)
        answer.append(
            RecommendedItem(
                item_id=item_id,
                score=score,
                goals=goals,
                title=item.title if item else None,
                categories=list(item.categories) if item else [],
            )
        )
    return answer
