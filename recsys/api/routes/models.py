"""`GET /v1/models`: which weights each engine serves."""

from __future__ import annotations

from fastapi import APIRouter

from recsys.api.deps import Res
from recsys.api.problems import describe
from recsys.api.schemas import ModelsAnswer, ServedModel

routes = APIRouter(prefix="/v1", tags=["models"])


@routes.get("/models", responses=describe(503))
async def models(res: Res) -> ModelsAnswer:
    """The model versions that engines serve now."""
    present = await res.telemetry.present()
    return ModelsAnswer(models=[ServedModel(engine=s.engine, model_version=s.model_version) for s in present])
