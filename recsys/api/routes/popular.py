"""`GET /v1/popular`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from recsys.api.deps import Res
from recsys.api.problems import describe
from recsys.api.recommend import documented, titled
from recsys.api.schemas import PopularAnswer
from recsys.state.popular import Window

routes = APIRouter(prefix="/v1", tags=["items"])


@routes.get("/popular", responses=describe(422, 503))
async def popular(
    res: Res,
    window: Window = "24h",
    k: Annotated[int, Query(ge=1, le=200)] = 10,
) -> PopularAnswer:
    """Most used items in a window of event time; all of time where the window is empty."""
    scores = await res.popular.top(window, k)
    items = await titled([item_id for item_id, _ in scores], [score for _, score in scores], res)
    return PopularAnswer(window=window, items=documented(items))
