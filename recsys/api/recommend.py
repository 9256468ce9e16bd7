"""From a query to its answer: user state from Redis, ranking by the engine, popular items without one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import msgspec
from redis.exceptions import RedisError

from recsys.api.deps import Resources
from recsys.api.engine_client import EngineLostError
from recsys.api.query import Query
from recsys.api.request_ids import new_request_id
from recsys.api.schemas import RecommendedItem
from recsys.errors import InputError, OverloadedError, UnavailableError
from recsys.wire import RankReply, RankRequest

ANSWER_MARGIN_S = 0.01  # what the API itself needs after the engine's reply

NO_GOALS: Mapping[str, Sequence[float]] = {}


class AnsweredItem(msgspec.Struct, frozen=True, gc=False):
    """One item of an answer; see `schemas.RecommendedItem`."""

    item_id: str
    score: float
    title: str | None = None
    categories: tuple[str, ...] = ()
    goals: dict[str, float] = {}


class _Degraded(msgspec.Struct, frozen=True):
    step: str = "calm"
    redirected: float = 0.0
    score_kept: float = 1.0


class _Timing(msgspec.Struct, frozen=True):
    total_ms: float
    state_ms: float
    queue_ms: float
    compute_ms: float


class Answer(msgspec.Struct, frozen=True):
    """The answer to a query; the documented twin is `schemas.RecommendationAnswer`."""

    request_id: str
    items: Sequence[AnsweredItem]
    model_version: str
    policy: str
    degraded: _Degraded
    cold_start: bool
    fallback: str | None
    timing: _Timing
    explain: Sequence[object] | None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the asking user."""

    history: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    failed: bool = False


async def recommend(query: Query, budget_s: float, res: Resources) -> bytes:
    """The answer, encoded.

    Raises:
        InputError: the query is wrong. OverloadedError: refused to protect accepted work.
        UnavailableError: the model cannot answer, and the query wants nothing else.
    """
    began = time.perf_counter()
    check_bounds(query, res)
    res.recent.add(query)
    request_id = new_request_id()
    known = await user_state(query, res, budget_s)
    state_s = time.perf_counter() - began
    reply: RankReply | None = None
    degraded, fallback = _Degraded(), None
    if known.failed:
        fallback = "the user's state cannot be read, so the answer is not personal"
        if query.fallback == "never":
            raise UnavailableError(fallback)
    try:
        reply = await ask_engine(query, known, request_id, budget_s - state_s, res)
        degraded = _Degraded(reply.step, reply.redirected, reply.score_kept)
        left_s = budget_s - (time.perf_counter() - began)
        items = await titled(reply.item_ids, reply.scores, res, goals=reply.goals, within_s=left_s)
    except (EngineLostError, OverloadedError) as error:
        reason, overloaded = str(error), isinstance(error, OverloadedError)
        if overloaded and query.fallback != "always":
            raise
        if query.fallback == "never":
            raise UnavailableError(reason) from None
        degraded = _Degraded("shed" if overloaded else "calm")
        res.metrics.fallbacks.labels(reason.split(":", 1)[0]).inc()
        fallback = f"{reason}; these are popular items"
        items = _popular(query, known, res)
    if res.settings.api.impressions and query.user_id is not None and items:
        res.impressions.add(request_id, query.user_id, tuple(item.item_id for item in items))
    return msgspec.json.encode(
        Answer(
            request_id=request_id,
            items=items,
            model_version=reply.model_version if reply else "",
            policy=reply.policy if reply else "",
            degraded=degraded,
            cold_start=reply.cold_start if reply else not known.history,
            fallback=fallback,
            timing=_Timing(
                total_ms=(time.perf_counter() - began) * 1e3,
                state_ms=state_s * 1e3,
                queue_ms=reply.queue_ms if reply else 0.0,
                compute_ms=reply.compute_ms if reply else 0.0,
            ),
            explain=reply.experts if reply and query.explain else None,
        )
    )


async def titled(
    item_ids: Sequence[str],
    scores: Sequence[float],
    res: Resources,
    *,
    goals: Mapping[str, Sequence[float]] = NO_GOALS,
    within_s: float | None = None,
) -> list[AnsweredItem]:
    """Items of an answer with their titles; one without them is better than none when Redis is away, or a late one.

    `scores`, and a list for each goal, run beside `item_ids`.
    """
    known = res.items.fresh(item_ids)
    if known is None:
        try:
            found = await res.items.get(item_ids, within_s=within_s)
        except (RedisError, TimeoutError):
            found = {}
        known = [found.get(item_id) for item_id in item_ids]
    of_goals: Iterable[dict[str, float]] = repeat({})
    if goals:
        of_goals = (dict(zip(goals, values, strict=True)) for values in zip(*goals.values(), strict=True))
    return [
        AnsweredItem(item_id, score, entry.title, entry.categories, of_item)
        if entry
        else AnsweredItem(item_id, score, goals=of_item)
        for item_id, score, entry, of_item in zip(item_ids, scores, known, of_goals, strict=False)
    ]


def documented(items: Sequence[AnsweredItem]) -> list[RecommendedItem]:
    """The same items as the models that other calls answer with."""
    return [RecommendedItem(**msgspec.structs.asdict(item)) for item in items]


def check_bounds(query: Query, res: Resources) -> None:
    """Raises `InputError` for what only the settings can judge."""
    config = res.settings.api
    if query.k > config.k_max:
        raise InputError(f"k: {query.k}, at most {config.k_max}", field="k")
    if query.candidates is not None and len(query.candidates) > config.candidates_max:
        raise InputError(
            f"candidates: {len(query.candidates)} items, at most {config.candidates_max}", field="candidates"
        )
    if query.user_id is None and query.history is None:
        raise InputError("user_id: name a user_id, a history or both", field="user_id")


async def user_state(query: Query, res: Resources, budget_s: float) -> Known:
    """History as named or as stored. A failing Redis costs at most half the budget, and the personal touch."""
    known = Known()
    if query.user_id is not None:
        try:
            taste = await res.tastes.get(query.user_id, within_s=budget_s / 2)
            known = Known(taste.history, taste.kinds, taste.hidden)
        except (RedisError, TimeoutError):
            known = Known(failed=query.history is None)
    if query.history is not None:
        return Known(query.history, ("click",) * len(query.history), known.hidden)
    return known


async def ask_engine(
    query: Query, known: Known, request_id: str, left_s: float, res: Resources, *, policy: str | None = None
) -> RankReply:
    """The engine's reply if it answered; `policy` routes this question alone by another policy.

    Raises:
        EngineLostError: fall back. OverloadedError: refuse. InputError: the query is wrong.
    """
    question = RankRequest(
        id=request_id,
        time_left_ms=max(0.0, left_s - ANSWER_MARGIN_S) * 1e3,
        k=query.k,
        history=known.history,
        history_kinds=known.kinds,
        candidates=query.candidates,
        exclude=query.exclude_items + known.hidden,
        exclude_seen=query.exclude_seen,
        filters=query.wire_filters,
        diversity=query.diversity,
        goals=query.goals,
        explain=query.explain,
        priority=0 if query.priority == "interactive" else 1,
        policy=policy,
    )
    reply = await res.engine.ask(question, timeout_s=max(0.001, left_s))
    match reply.status:
        case "ok":
            return reply
        case "invalid":
            raise InputError(reply.error, field=reply.error.split(":", 1)[0])
        case "refused" if reply.elsewhere:
            raise EngineLostError(reply.error)
        case "refused" | "expired":
            raise OverloadedError(f"the engine is overloaded: {reply.error}", retry_after_s=reply.retry_after_s or 1.0)
        case _:
            raise EngineLostError(f"the engine failed: {reply.error}")


def _popular(query: Query, known: Known, res: Resources) -> list[AnsweredItem]:
    barred = {*query.exclude_items, *known.hidden, *(known.history if query.exclude_seen else ())}
    return [
        AnsweredItem(item.item_id, score, item.title, item.categories)
        for item, score in res.fallback.pick(
            query.k,
            filters=query.wire_filters,
            exclude=barred,
            candidates=None if query.candidates is None else set(query.candidates),
        )
    ]
