"""`/healthz`, `/readyz`, `/metrics`: for supervisors, balancers and Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError
from starlette.responses import JSONResponse, Response

from recsys.api.deps import Res
from recsys.api.schemas import Readiness

routes = APIRouter(tags=["health"])


@routes.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process is alive."""
    return {"status": "alive"}


@routes.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(res: Res) -> Response:
    """Ready for personal answers: Redis answers, and the engine has its model and catalogue and is warmed up."""
    items, backlog, redis_up = 0, 0, True
    try:
        items = int(await res.redis.hlen(res.keys.items))
        backlog = await res.producer.backlog()
    except RedisError:
        redis_up = False
    ready = redis_up and res.engine.ready
    body = Readiness(
        ready=ready,
        redis=redis_up,
        engine=res.engine.ready,
        model_version=res.engine.model_version,
        catalogue_items=items,
        backlog=backlog,
    )
    return JSONResponse(body.model_dump(), status_code=200 if ready else 503)


@routes.get("/metrics", include_in_schema=False)
async def metrics(res: Res) -> Response:
    """Prometheus text."""
    res.metrics.in_flight.set(res.engine.in_flight)
    res.metrics.engines_ready.set(res.engine.ready_engines)
    return Response(generate_latest(res.metrics.registry), media_type=CONTENT_TYPE_LATEST)
