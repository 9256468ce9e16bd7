"""`/v1/models`: which weights the engines serve, and others in their place without a lost request."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from recsys.api import model_activation
from recsys.api.deps import Admin, Res
from recsys.api.problems import describe
from recsys.api.schemas import ModelsAnswer

routes = APIRouter(prefix="/v1", tags=["models"])

Version = Annotated[str, Path(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f]+$")]


@routes.get("/models", responses=describe(503))
async def models(res: Res) -> ModelsAnswer:
    """The model versions that engines serve now, and those that there are."""
    return await model_activation.models_now(res)


@routes.post("/models/{version}/activate", dependencies=[Admin], responses=describe(401, 403, 404, 409, 422, 503))
async def activate(version: Version, res: Res) -> ModelsAnswer:
    """Serve another version. Each engine loads it beside the old one and swaps between two micro-batches.

    Answers when all engines serve it. If one cannot, 409 says why, and all go on with the version before.
    """
    return await model_activation.activate(version, res)


@routes.post("/models/rollback", dependencies=[Admin], responses=describe(401, 403, 404, 409, 503))
async def rollback(res: Res) -> ModelsAnswer:
    """Serve the version that was served before; a second rollback returns."""
    return await model_activation.rollback(res)
