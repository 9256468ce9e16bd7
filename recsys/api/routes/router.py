"""`/v1/router`: which policy routes, and its bounds; engines follow within half a second."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, cast

import msgspec
from fastapi import APIRouter

from recsys.api.deps import Admin, Res, Resources
from recsys.api.problems import describe
from recsys.api.schemas import RouterAnswer, RouterBody
from recsys.errors import InputError

routes = APIRouter(prefix="/v1", tags=["routing"])


@routes.get("/router", responses=describe(503))
async def get_router(res: Res) -> RouterAnswer:
    """The policy that is wanted, the ones there are, and what each engine runs now."""
    return await _state(res)


@routes.put("/router", dependencies=[Admin], responses=describe(401, 403, 422, 503))
async def put_router(body: RouterBody, res: Res) -> RouterAnswer:
    """Switch the policy, its capacity factor, or both."""
    known = (await _state(res)).policies
    if body.policy is not None and known and body.policy not in known:
        raise InputError(f"policy: {body.policy!r} is not one of {', '.join(known)}", field="policy")
    wanted: dict[Any, Any] = {name: str(value) for name, value in body.model_dump(exclude_none=True).items()}
    await res.redis.hset(res.keys.router, mapping=wanted)
    return await _state(res)


async def _state(res: Resources) -> RouterAnswer:
    stored = await cast("Awaitable[dict[str, str]]", res.redis.hgetall(res.keys.router))
    defaults = res.settings.router
    return RouterAnswer(
        policy=stored.get("policy", defaults.policy),
        capacity_factor=float(stored.get("capacity_factor", defaults.capacity_factor)),
        policies=msgspec.json.decode(stored.get("policies", "[]")),
        active={snapshot.engine: snapshot.policy for snapshot in await res.telemetry.present()},
    )
