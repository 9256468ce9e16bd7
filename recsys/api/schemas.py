"""Requests and answers of `/v1`: the public contract, with bounds and examples. `*_schemas.py` hold the rest of it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from recsys.events.schema import ID_MAX, TITLE_MAX, Kind
from recsys.wire import LoadSnapshot


def printable(value: str) -> str:
    """The value. Raises ValueError for control characters."""
    if any(ord(c) < 32 for c in value):
        raise ValueError("control characters are not allowed")
    return value


def finite(value: float) -> float:
    """The value. Raises ValueError for NaN and infinity."""
    if not math.isfinite(value):
        raise ValueError("must be finite")
    return value


Id = Annotated[str, Field(min_length=1, max_length=ID_MAX), AfterValidator(printable)]
Finite = Annotated[float, AfterValidator(finite)]
Weight = Annotated[float, Field(ge=-100, le=100), AfterValidator(finite)]


class Body(BaseModel):
    """Unknown fields are errors: a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid")


class FiltersBody(Body):
    """Conditions on items; an item must meet all of them."""

    categories_any: list[Id] = Field(default=[], max_length=32, description="At least one of these categories")
    categories_none: list[Id] = Field(default=[], max_length=32, description="None of these categories")
    year_min: int | None = Field(default=None, ge=-10_000, le=10_000)
    year_max: int | None = Field(default=None, ge=-10_000, le=10_000)


class RecommendationRequest(Body):
    """Who asks, for how many, and under which conditions."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"user_id": "u1", "k": 10}, {"history": ["i7", "i3"], "k": 5, "goals": {"like": 2}}]
        },
    )

    user_id: Id | None = Field(default=None, description="History comes from the stored events of this user")
    history: list[Id] | None = Field(
        default=None, max_length=500, description="Item ids, newest last; replaces the stored history"
    )
    k: int = Field(default=10, ge=1, description="Items wanted; more than the catalogue gives the whole catalogue")
    candidates: list[Id] | None = Field(default=None, description="Rank only these")
    filters: FiltersBody = FiltersBody()
    exclude_items: list[Id] = Field(default=[], max_length=2_000)
    exclude_seen: bool = Field(default=True, description="Leave out what is in the history")
    diversity: Annotated[float, Field(ge=0, le=1), AfterValidator(finite)] = Field(
        default=0.0, description="0 = by score alone, 1 = as different as possible"
    )
    goals: dict[str, Weight] = Field(default={}, max_length=16, description="Weight per goal; default click = 1")
    explain: bool = Field(default=False, description="Add the experts that scored each item")
    priority: Literal["interactive", "batch"] = "interactive"
    fallback: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Popular items in place of the model's answer: `auto` when no engine can answer, `always` also "
        "when the engines are overloaded, `never` not at all; where they may not, the answer is 503. A process too "
        "busy to read the request answers 503 in any case",
    )


class RecommendedItem(BaseModel):
    """One item of an answer, best first."""

    item_id: str
    score: float
    title: str | None = None
    categories: list[str] = []
    goals: dict[str, float] = Field(default={}, description="Probability-like score per goal")


class Degraded(BaseModel):
    """What this answer gave up for speed; all zero in calm."""

    step: str = Field(default="calm", description="calm, redirect, economise or shed")
    redirected: float = Field(default=0.0, description="Share of expert slots that were not the token's first choices")
    score_kept: float = Field(default=1.0, description="Gate score of the routes relative to the unconstrained ones")


class Timing(BaseModel):
    """Milliseconds spent where."""

    total_ms: float
    state_ms: float = 0.0
    queue_ms: float = 0.0
    compute_ms: float = 0.0


class Explanation(BaseModel):
    """Experts of one item in one MoE layer."""

    item_id: str
    layer: int
    experts: list[int]
    gates: list[float]
    redirected_from: list[int] = []
    redirected_to: list[int] = []


class RecommendationAnswer(BaseModel):
    """Items, and everything needed to know how they came about."""

    request_id: str
    items: list[RecommendedItem]
    model_version: str
    policy: str
    degraded: Degraded
    cold_start: bool = Field(description="Nothing is known of this user, so the answer is not personal")
    fallback: str | None = Field(
        default=None, description="Why the answer came from popular items instead of the model"
    )
    timing: Timing
    explain: list[Explanation] | None = None


class InteractionBody(Body):
    """A user did something with an item."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"type": "interaction", "user_id": "u1", "item_id": "i7", "kind": "like"}]},
    )

    type: Literal["interaction"] = "interaction"
    user_id: Id
    item_id: Id
    kind: Kind
    event_id: Id | None = Field(default=None, description="Makes a resend harmless; made by the service if absent")
    value: Finite | None = None
    ts: int | None = Field(default=None, description="Unix milliseconds; default is the time of arrival")
    request_id: Id | None = Field(default=None, description="`request_id` of the answer that showed the item")


class EventsBody(Body):
    """One or more interactions."""

    events: list[dict[str, Any]] = Field(min_length=1)


class RejectedEvent(BaseModel):
    """Why one event of a batch was not taken."""

    index: int
    field: str | None
    reason: str


class EventsAnswer(BaseModel):
    """What became of a batch; accepted events are in the stream when this arrives."""

    accepted: int
    duplicates: int
    rejected: list[RejectedEvent]
    event_ids: list[str] = Field(description="Ids of the accepted events, in order")


class ItemBody(Body):
    """A catalogue item."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"title": "Night Train", "categories": ["thriller"], "attributes": {"year": 1998}}]
        },
    )

    title: Annotated[str, Field(min_length=1, max_length=TITLE_MAX), AfterValidator(printable)]
    categories: list[Id] = Field(default=[], max_length=32)
    attributes: dict[str, str | Finite | int | bool | None] = Field(
        default={}, max_length=64, description="`year` (int) is used by filters and by the model"
    )
    published_at: int | None = Field(default=None, ge=0, description="Unix milliseconds")


class ItemAnswer(ItemBody):
    """A catalogue item with its id and how often it was used."""

    item_id: str
    interactions: int = 0


class UserBody(Body):
    """A user's profile."""

    attributes: dict[str, str | Finite | int | bool | None] = Field(default={}, max_length=64)


class HistoryEntry(BaseModel):
    """One remembered interaction."""

    item_id: str
    kind: str
    ts: int
    title: str | None = None


class UserAnswer(BaseModel):
    """What the service knows of a user, newest interaction first."""

    user_id: str
    attributes: dict[str, Any]
    history: list[HistoryEntry]
    hidden: list[str]
    counts: dict[str, int]


class SimilarAnswer(BaseModel):
    """Neighbours of an item in the model's embedding."""

    item_id: str
    items: list[RecommendedItem]
    model_version: str


class PopularAnswer(BaseModel):
    """Most used items in a window of time."""

    window: str
    items: list[RecommendedItem]


class ExpertsAnswer(BaseModel):
    """Load snapshots, oldest first, of all engines; the last per engine is the present."""

    engines: list[str]
    snapshots: list[LoadSnapshot]


class Problem(BaseModel):
    """Every error, as `application/problem+json` (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = None
    errors: list[dict[str, Any]] | None = None


class ServedModel(BaseModel):
    """What one engine serves."""

    engine: str
    model_version: str


class ModelsAnswer(BaseModel):
    """Model versions in service, and those to choose from."""

    models: list[ServedModel]
    available: list[str] = Field(default=[], description="Versions that every engine has")
    wanted: str | None = Field(default=None, description="Version that was activated last; none = the engines' own")
    previous: str | None = Field(default=None, description="Version that a rollback activates")


class Readiness(BaseModel):
    """Whether this process can give personal answers, and what is missing if not."""

    ready: bool
    redis: bool
    engine: bool
    model_version: str
    catalogue_items: int = 0
    backlog: int = Field(default=0, description="Events in the stream that are not applied yet")
