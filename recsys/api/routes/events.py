"""`POST /v1/events`: into the stream, checked by the same reader that the worker uses."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body

from recsys.api.deps import Res
from recsys.api.problems import describe
from recsys.api.schemas import EventsAnswer, RejectedEvent
from recsys.errors import EventError, InputError
from recsys.events.schema import Event, parse_event

routes = APIRouter(prefix="/v1", tags=["events"])

_JSON_FIELDS = {"categories", "attributes", "items"}
_NUMBER_FIELDS = {"value", "ts", "published_at"}
_EXAMPLES = {
    "one": {"value": {"type": "interaction", "user_id": "u1", "item_id": "i7", "kind": "like"}},
    "batch": {"value": {"events": [{"user_id": "u1", "item_id": "i7", "kind": "view", "event_id": "e-1"}]}},
}


@routes.post("/events", status_code=202, responses=describe(413, 422, 503))
async def post_events(
    body: Annotated[dict[str, Any], Body(openapi_examples=_EXAMPLES)],
    res: Res,
) -> EventsAnswer:
    """Take one event, or a batch as `{"events": [...]}`; a wrong event never holds up the others.

    A resend with the same `event_id` changes nothing. 202 means that the accepted events are in the stream.
    """
    raw = _as_list(body, res.settings.api.events_per_call_max)
    now_ms = int(time.time() * 1e3)
    events: list[Event] = []
    rejected: list[RejectedEvent] = []
    for index, fields in enumerate(raw):
        try:
            events.append(_read(fields, now_ms, res.settings.events.future_max_ms))
        except EventError as error:
            rejected.append(RejectedEvent(index=index, field=error.field, reason=str(error)))
    if len(raw) == 1 and "events" not in body and rejected:
        raise InputError(rejected[0].reason, field=rejected[0].field)
    fresh = {event.event_id: event for event in reversed(events)}
    known = await res.producer.seen(list(fresh))
    new = [event for event in reversed(fresh.values()) if event.event_id not in known]
    await res.producer.add(new)
    duplicates = len(events) - len(new)
    for outcome, count in (("accepted", len(new)), ("duplicate", duplicates), ("rejected", len(rejected))):
        res.metrics.events.labels(outcome).inc(count)
    return EventsAnswer(
        accepted=len(new), duplicates=duplicates, rejected=rejected, event_ids=[event.event_id for event in new]
    )


def _as_list(body: dict[str, Any], most: int) -> list[Any]:
    if "events" not in body:
        return [body]
    events = body["events"]
    if not isinstance(events, list) or len(body) > 1:
        raise InputError('events: a batch is {"events": [...]} and nothing else', field="events")
    if not 1 <= len(events) <= most:
        raise InputError(f"events: {len(events)} events, from 1 to {most} are taken in one call", field="events")
    return events


def _read(raw: Any, now_ms: int, future_max_ms: int) -> Event:
    """One event from JSON: turned into the stream's text fields, then read like any other entry."""
    if not isinstance(raw, dict):
        raise EventError("an event is a JSON map", field=None)
    fields = {name: _text(name, value) for name, value in raw.items() if value is not None}
    fields.setdefault("type", "interaction")
    if fields["type"] == "impression":
        raise EventError("type: impressions are written by the service itself", field="type")
    fields.setdefault("event_id", uuid.uuid4().hex)
    return parse_event(fields, entry_id=f"{now_ms}-0", now_ms=now_ms, future_max_ms=future_max_ms)


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        if name in _JSON_FIELDS or name in _NUMBER_FIELDS:
            raise EventError(f"{name}: must not be text", field=name)
        return value
    if name in _NUMBER_FIELDS and isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    if name in _JSON_FIELDS and isinstance(value, list | dict):
        return msgspec.json.encode(value).decode()
    raise EventError(f"{name}: {type(value).__name__} is not what this field holds", field=name)
