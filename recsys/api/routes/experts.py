"""`/v1/experts`: the load of the experts, as the engines published it, and as they publish it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from recsys.api.deps import Res
from recsys.api.expert_users import expert_users
from recsys.api.expert_users_schemas import ExpertUsersAnswer
from recsys.api.problems import describe
from recsys.api.schemas import ExpertsAnswer

routes = APIRouter(prefix="/v1", tags=["routing"])


@routes.get("/experts", response_model=ExpertsAnswer, responses=describe(422, 503))
async def experts(
    res: Res,
    window_s: Annotated[float, Query(gt=0, le=600, description="How far back")] = 5.0,
    since: Annotated[int, Query(ge=0, le=10**13, description="Only snapshots after this Unix ms")] = 0,
) -> Response:
    """Load snapshots of all engines, oldest first; the last per engine is the present."""
    newest = await res.telemetry.last_id()  # where the answer ends; without a store there is none to begin
    oldest = max(int((time.time() - window_s) * 1e3), since + 1)
    body = _body(res.telemetry.pages(since_ms=oldest, until=newest))
    return StreamingResponse(body, media_type="application/json")


@routes.get("/experts/users", responses=describe(503))
async def users(res: Res) -> ExpertUsersAnswer:
    """What kinds of users each expert works for, from a sample of those who asked in the last two minutes.

    A sample is taken at most twice a minute: it asks the engines up to 48 queries of low priority. With several API
    processes, each knows its own users.
    """
    return await res.expert_users.get(lambda: expert_users(res))


@routes.get(
    "/experts/stream",
    response_class=StreamingResponse,
    responses=describe(503) | {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def stream(res: Res) -> StreamingResponse:
    """Each load snapshot when it is published, as server-sent events: `event: load`, one snapshot as JSON in `data`.

    The stream has no end. A reader that falls far behind is cut off; streams beyond the server's bound get 503.
    """
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(res.load_stream.listen(), media_type="text/event-stream", headers=headers)


async def _body(pages: AsyncIterator[list[str]]) -> AsyncIterator[bytes]:
    """Page by page: ten minutes of several engines are megabytes, for which the loop would stand still."""
    engines: set[str] = set()
    yield b'{"snapshots":['
    comma = ""
    async for page in pages:
        engines.update(_name_of(raw).engine for raw in page)
        yield (comma + ",".join(page)).encode()
        comma = ","
    yield b'],"engines":' + msgspec.json.encode(sorted(engines)) + b"}"


class _Named(msgspec.Struct):
    """The one field of a snapshot that is read here; the rest passes through as it is."""

    engine: str


_name_of = msgspec.json.Decoder(_Named).decode
