"""`/v1/experts`: the load of the experts, as the engines published it, and as they publish it."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from recsys.api.deps import Res
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
    oldest = max(int((time.time() - window_s) * 1e3), since + 1)
    snapshots = [msgspec.Raw(raw.encode()) for raw in await res.telemetry.raw(since_ms=oldest)]
    engines = sorted({_engine(raw) for raw in snapshots})
    body = msgspec.json.encode({"engines": engines, "snapshots": snapshots})
    return Response(body, media_type="application/json")


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


class _Named(msgspec.Struct):
    """The one field of a snapshot that is read here; the rest passes through as it is."""

    engine: str


_name_of = msgspec.json.Decoder(_Named).decode


def _engine(raw: msgspec.Raw) -> str:
    return _name_of(raw).engine
