"""`/v1/router`: which policy routes, and its bounds; engines follow within half a second."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, cast

import msgspec
from fastapi import APIRouter, Request

from recsys.api import limits
from recsys.api.compare import compare
from recsys.api.deps import Admin, Res, Resources
from recsys.api.problems import describe
from recsys.api.query import from_body
from recsys.api.schemas import ComparisonBody, RouterAnswer, RouterBody, RouterComparison
from recsys.errors import InputError

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
    known = (await _state(res)).policies
    if body.policy is not None and known and body.policy not in known:
        raise InputError(f"policy: {body.policy!r} is not one of {', '.join(known)}", field="policy")
    if body.health:
        await _check_experts(body.health, res)
    wanted: dict[Any, Any] = {name: str(value) for name, value in body.model_dump(exclude_none=True).items()}
    if body.health is not None:
        wanted["health"] = msgspec.json.encode(body.health)
    await res.redis.hset(res.keys.router, mapping=wanted)
    return await _state(res)


@routes.post("/router/compare", responses=describe(413, 422, 503))
async def post_compare(body: ComparisonBody, request: Request, res: Res) -> RouterComparison:
    """One query under two policies: both answers, and what differs. Changes nothing, so it needs no key.

    Each policy answers in a batch of its own. In calm the slack of the capacities leaves nothing to redirect, so that
    policies which only act on overload agree.
    """
    config = res.settings.api
    deadline = request.headers.get("x-deadline-ms")
    budget_s = limits.deadline_s(deadline, default_ms=config.deadline_ms, most_ms=config.deadline_ms_max)
    return await compare(from_body(body.query), body.policies, budget_s, res)


async def _check_experts(health: Mapping[str, float], res: Resources) -> None:
    """Raises `InputError` for an expert that no engine has; without engines everything may be said."""
    experts = [len(layer.demand) for snapshot in await res.telemetry.present() for layer in snapshot.layers]
    wrong = [expert for expert in health if experts and int(expert) >= max(experts)]
    if wrong:
        raise InputError(f"health: no expert {wrong[0]}, there are {max(experts)}", field="health")


async def _state(res: Resources) -> RouterAnswer:
    stored = await cast("Awaitable[dict[str, str]]", res.redis.hgetall(res.keys.router))
    defaults = res.settings.router
    return RouterAnswer(
        policy=stored.get("policy", defaults.policy),
        capacity_factor=float(stored.get("capacity_factor", defaults.capacity_factor)),
        policies=msgspec.json.decode(stored.get("policies", "[]")),
        health=msgspec.json.decode(stored.get("health", "{}"), type=dict[str, float]),
        active={snapshot.engine: snapshot.policy for snapshot in await res.telemetry.present()},
    )
