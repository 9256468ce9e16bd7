"""`POST /v1/recommendations` as FastAPI sees it: documentation, leniency and error messages.

Bodies that are plainly right never get here: `recsys.api.hot` answers them, by the same `recommend`.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from recsys.api.deadline import budget_s
from recsys.api.deps import Res
from recsys.api.problems import describe
from recsys.api.query import from_body
from recsys.api.recommend import recommend
from recsys.api.schemas import RecommendationAnswer, RecommendationRequest

routes = APIRouter(prefix="/v1", tags=["recommendations"])


@routes.post("/recommendations", response_model=RecommendationAnswer, responses=describe(413, 422, 503))
async def recommendations(body: RecommendationRequest, request: Request, res: Res) -> Response:
    """Items for a user, best first."""
    left_s = budget_s(request.headers.get("x-deadline-ms"), res)
    return Response(await recommend(from_body(body), left_s, res), media_type="application/json")
