"""`/v1/router`: which policy routes, and its bounds; engines follow within half a second."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Mapping
from typing import Any, Literal, cast

import msgspec
from fastapi import APIRouter, Request

from recsys.api.compare import compare
from recsys.api.deadline import budget_s
from recsys.api.deps import Admin, Res, Resources
from recsys.api.problems import describe
from recsys.api.query import from_body
from recsys.api.router_schemas import (
    ComparisonBody,
    PolicyReturned,
    QualityBudgetAnswer,
    RouterAnswer,
    RouterBody,
    RouterComparison,
)
from recsys.errors import InputError
from recsys.state.wanted_router import OF_A_SWITCH, in_force, previous_of, returned_of

routes = APIRouter(prefix="/v1", tags=["routing"])


@routes.get("/router", responses=describe(503))
async def get_router(res: Res) -> RouterAnswer:
    """The policy that is wanted, the ones there are, and what each engine runs now."""
    return await _state(res)


@routes.put("/router", dependencies=[Admin], responses=describe(401, 403, 422, 503))
async def put_router(body: RouterBody, res: Res) -> RouterAnswer:
    """Switch the policy or its capacity factor, or say which experts are slow, draining (a share below 1) or dead (0).

    No policy uses a dead expert. Those that bound the load (`price`, `drop`, `phase`, `expanded_drop`) keep a slow one
    within what it has left; `topk` does not look, and the other unbounded ones only lean that way.
    """
    before = await _state(res)
    if body.policy is not None and before.policies and body.policy not in before.policies:
        raise InputError(f"policy: {body.policy!r} is not one of {', '.join(before.policies)}", field="policy")
    await _check_experts("health", body.health or {}, res)
    await _check_experts("inject", body.inject or {}, res)
    wanted: dict[Any, Any] = {}
    if body.policy is not None or body.capacity_factor is not None:
        wanted = {
            "policy": body.policy or before.policy,
            "capacity_factor": body.capacity_factor or before.capacity_factor,
        }
        if body.quality_budget is not None:
            wanted |= {
                "score_kept_min": body.quality_budget.score_kept_min,
                "kept_for_s": body.quality_budget.seconds,
                "switch": uuid.uuid4().hex,
                "previous": previous_of(before.policy, before.capacity_factor),
            }
    if body.health is not None:
        wanted["health"] = msgspec.json.encode(body.health)
    until_ms = int((time.time() + body.inject_for_s) * 1e3)
    if body.inject is not None:
        wanted |= {"inject": msgspec.json.encode(body.inject), "inject_until": until_ms}
    if body.lane_us is not None:
        wanted |= {"lane_us": body.lane_us, "lane_us_until": until_ms}
    async with res.redis.pipeline() as pipe:
        if "policy" in wanted:
            pipe.hdel(res.keys.router, *OF_A_SWITCH)
        pipe.hset(res.keys.router, mapping=wanted)
        await pipe.execute()
    return await _state(res)


@routes.post("/router/compare", responses=describe(413, 422, 503))
async def post_compare(body: ComparisonBody, request: Request, res: Res) -> RouterComparison:
    """One query under two policies: both answers, and what differs. Changes nothing, so it needs no key.

    Each policy answers in a batch of its own, behind the present traffic. In calm the slack of the capacities leaves
    nothing to redirect, so that policies which only act on overload agree.
    """
    left_s = budget_s(request.headers.get("x-deadline-ms"), res)
    return await compare(from_body(body.query), body.policies, left_s, res)


async def _check_experts(name: str, values: Mapping[str, object], res: Resources) -> None:
    """Raises `InputError` for an expert that no engine has; without engines everything may be said."""
    if not values:
        return
    experts = [len(layer.demand) for snapshot in await res.telemetry.present() for layer in snapshot.layers]
    wrong = [expert for expert in values if experts and int(expert) >= max(experts)]
    if wrong:
        raise InputError(f"{name}: no expert {wrong[0]}, there are {max(experts)}", field=name)


async def _state(res: Resources) -> RouterAnswer:
    found = await cast("Awaitable[dict[str, str]]", res.redis.hgetall(res.keys.router))
    stored = in_force(found, now_ms=time.time() * 1e3)
    defaults = res.settings.router
    returned = returned_of(stored["returned"]) if "returned" in stored else None
    return RouterAnswer(
        policy=stored.get("policy", defaults.policy),
        capacity_factor=float(stored.get("capacity_factor", defaults.capacity_factor)),
        policies=msgspec.json.decode(stored.get("policies", "[]")),
        health=msgspec.json.decode(stored.get("health", "{}"), type=dict[str, float]),
        inject=msgspec.json.decode(stored.get("inject", "{}"), type=dict[str, float | Literal["dead"]]),
        inject_until=_end("inject", stored),
        lane_us=float(stored.get("lane_us", defaults.lane_us)),
        lane_us_until=_end("lane_us", stored),
        active={snapshot.engine: snapshot.policy for snapshot in await res.telemetry.present()},
        quality_budget=_budget(stored),
        returned=PolicyReturned(why=returned.why, ts=returned.ts) if returned else None,
    )


def _end(experiment: str, stored: Mapping[str, str]) -> int | None:
    return None if stored.get(experiment) in (None, "{}") else int(stored[f"{experiment}_until"])


def _budget(stored: Mapping[str, str]) -> QualityBudgetAnswer | None:
    if "previous" not in stored or "score_kept_min" not in stored:
        return None
    previous = msgspec.json.decode(stored["previous"])
    return QualityBudgetAnswer(
        score_kept_min=float(stored["score_kept_min"]),
        seconds=float(stored.get("kept_for_s", 5)),
        previous_policy=previous["policy"],
        previous_capacity_factor=previous["capacity_factor"],
    )
