"""`/v1/users`: profiles and what is remembered of a user."""

from __future__ import annotations

import time
import uuid
from typing import Annotated

from fastapi import APIRouter, Path

from recsys.api.deps import Admin, Res
from recsys.api.problems import describe
from recsys.api.schemas import HistoryEntry, UserAnswer, UserBody
from recsys.errors import NotFoundError
from recsys.events.schema import ID_MAX, User, UserDelete

routes = APIRouter(prefix="/v1", tags=["users"])

UserId = Annotated[str, Path(min_length=1, max_length=ID_MAX, pattern=r"^[^\x00-\x1f]+$")]


@routes.get("/users/{user_id}", responses=describe(404, 503))
async def get_user(user_id: UserId, res: Res) -> UserAnswer:
    """Everything that is remembered of a user, newest interaction first."""
    user = await res.users.get_user(user_id)
    if not user.known:
        raise NotFoundError(f"user_id: nothing is known of {user_id!r}", field="user_id")
    known = await res.items.get(list({entry.item_id for entry in user.history}))
    return UserAnswer(
        user_id=user_id,
        attributes=user.attributes,
        history=[
            HistoryEntry(
                item_id=entry.item_id,
                kind=entry.kind,
                ts=entry.ts,
                title=known[entry.item_id].title if entry.item_id in known else None,
            )
            for entry in reversed(user.history)
        ],
        hidden=list(user.hidden),
        counts=dict(user.counts),
    )


@routes.put("/users/{user_id}", status_code=202, responses=describe(413, 422, 503))
async def put_user(user_id: UserId, body: UserBody, res: Res) -> dict[str, str]:
    """Replace a user's profile."""
    event_id = uuid.uuid4().hex
    now = int(time.time() * 1e3)
    await res.producer.add([User(event_id=event_id, user_id=user_id, attributes=body.attributes, ts=now)])
    return {"event_id": event_id}


@routes.delete("/users/{user_id}", status_code=202, dependencies=[Admin], responses=describe(401, 403, 503))
async def delete_user(user_id: UserId, res: Res) -> dict[str, str]:
    """Forget a user: state, profile, what was shown, and entries still in the stream."""
    event_id = uuid.uuid4().hex
    await res.producer.add([UserDelete(event_id=event_id, user_id=user_id, ts=int(time.time() * 1e3))])
    res.recent.forget(user_id)
    return {"event_id": event_id}
