"""`/v1/items`: the catalogue. Writes go through the stream like every other event, so that all readers follow."""

from __future__ import annotations

import time
import uuid
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from recsys.api.deadline import budget_s
from recsys.api.deps import Admin, Res
from recsys.api.engine_client import EngineLostError
from recsys.api.problems import describe
from recsys.api.recommend import documented, titled
from recsys.api.schemas import ItemAnswer, ItemBody, SimilarAnswer
from recsys.errors import NotFoundError, UnavailableError
from recsys.events.schema import ID_MAX, Item, ItemDelete
from recsys.wire import Similar

routes = APIRouter(prefix="/v1", tags=["items"])

ItemId = Annotated[str, Path(min_length=1, max_length=ID_MAX, pattern=r"^[^\x00-\x1f]+$")]


@routes.get("/items/{item_id}", responses=describe(404, 503))
async def get_item(item_id: ItemId, res: Res) -> ItemAnswer:
    """One item."""
    res.items.forget(item_id)
    item = (await res.items.get([item_id])).get(item_id)
    if item is None:
        raise NotFoundError(f"item_id: no item {item_id!r}", field="item_id")
    used = await res.redis.hget(res.keys.item_counts, item_id)
    return ItemAnswer(
        item_id=item_id,
        title=item.title,
        categories=list(item.categories),
        attributes=item.attributes,
        published_at=item.published_at,
        interactions=int(used or 0),
    )


@routes.put("/items/{item_id}", status_code=202, dependencies=[Admin], responses=describe(401, 403, 413, 422, 503))
async def put_item(item_id: ItemId, body: ItemBody, res: Res) -> dict[str, str]:
    """Add an item or replace it. Recommendable within a second."""
    event_id = uuid.uuid4().hex
    await res.producer.add(
        [
            Item(
                event_id=event_id,
                item_id=item_id,
                title=body.title,
                categories=tuple(body.categories),
                attributes=body.attributes,
                published_at=body.published_at,
                ts=int(time.time() * 1e3),
            )
        ]
    )
    res.items.forget(item_id)
    return {"event_id": event_id}


@routes.delete("/items/{item_id}", status_code=202, dependencies=[Admin], responses=describe(401, 403, 503))
async def delete_item(item_id: ItemId, res: Res) -> dict[str, str]:
    """Take an item out of the catalogue."""
    event_id = uuid.uuid4().hex
    await res.producer.add([ItemDelete(event_id=event_id, item_id=item_id, ts=int(time.time() * 1e3))])
    res.items.forget(item_id)
    return {"event_id": event_id}


@routes.get("/items/{item_id}/similar", responses=describe(404, 503))
async def similar(
    item_id: ItemId, request: Request, response: Response, res: Res, k: Annotated[int, Query(ge=1, le=200)] = 10
) -> SimilarAnswer:
    """Items nearest to this one in the model's embedding, by cosine."""
    until_s = time.perf_counter() + budget_s(request.headers.get("x-deadline-ms"), res)
    left_s = max(0.001, until_s - time.perf_counter())
    question = Similar(id=uuid.uuid4().hex, time_left_ms=left_s * 1e3, item_id=item_id, k=k)
    try:
        reply = await res.engine.ask(question, timeout_s=left_s)
    except EngineLostError as error:
        raise UnavailableError(f"similar items need the engine: {error}") from None
    if reply.status == "invalid":
        raise NotFoundError(reply.error, field="item_id")
    if reply.status != "ok":
        raise UnavailableError(reply.error, retry_after_s=reply.retry_after_s or 1.0)
    scored = await titled(reply.item_ids, reply.scores, res, within_s=until_s - time.perf_counter())
    return SimilarAnswer(item_id=item_id, items=documented(scored), model_version=reply.model_version)
