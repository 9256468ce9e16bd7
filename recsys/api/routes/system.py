"""`/v1/system` and `/v1/dead-letters`: is everything there, and what could not be applied."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from recsys.api.deps import Admin, Res
from recsys.api.problems import describe
from recsys.api.system_schemas import DeadLetterAnswer, DeadLetterList, SystemAnswer
from recsys.events.dead_letters import newest_dead_letters

routes = APIRouter(prefix="/v1", tags=["system"])


@routes.get("/system", responses=describe(503))
async def system(res: Res) -> SystemAnswer:
    """Processes with their versions and memory, groups of the stream with what waits for them, dead letters, Redis."""
    return await res.system.now()


@routes.get("/dead-letters", dependencies=[Admin], responses=describe(401, 403, 422, 503))
async def dead_letters(
    res: Res, count: Annotated[int, Query(ge=1, le=100, description="At most")] = 20
) -> DeadLetterList:
    """The newest entries that could not be applied, as they are: they may name users.

    `recsys dead-letters` mends and replays them.
    """
    letters = await newest_dead_letters(res.redis, res.keys, count=count)
    return DeadLetterList(
        count=await res.redis.xlen(res.keys.dead), letters=[DeadLetterAnswer(**letter) for letter in letters]
    )
