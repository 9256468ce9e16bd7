"""Requests and answers of `/v1`: the public contract, with bounds and examples."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from recsys.events.schema import ID_MAX, TITLE_MAX, Kind
from recsys.wire import LoadSnapshot


def _printable(value: str) -> str:
    if any(ord(c) < 32 for c in value):
        raise ValueError("control characters are not allowed")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be finite")
    return value


Id = Annotated[str, Field(min_length=1, max_length=ID_MAX), AfterValidator(_printable)]
Finite = Annotated[float, AfterValidator(_finite)]
Weight = Annotated[float, Field(ge=-100, le=100), AfterValidator(_finite)]


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
    diversity: Annotated[float, Field(ge=0, le=1), AfterValidator(_finite)] = Field(
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

    title: Annotated[str, Field(min_length=1, max_length=TITLE_MAX), AfterValidator(_printable)]
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


ExpertNumber = Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,3})$")]


Capacity = Annotated[float, Field(ge=1.0, le=16.0), AfterValidator(_finite)]
LaneUs = Annotated[float, Field(ge=0, le=1_000), AfterValidator(_finite)]
InjectedUs = Annotated[float, Field(ge=0, le=100_000), AfterValidator(_finite)]


class QualityBudgetBody(Body):
    """How much of the gate's score the new policy must keep; if it does not, the one before comes back by itself."""

    score_kept_min: float = Field(gt=0, le=1, description="Least mean share of the gate's score, over tokens")
    seconds: float = Field(default=5.0, ge=1, le=600, description="Time over which the mean is taken")


class RouterBody(Body):
    """The routing policy wanted, its bounds, and the experts that are not well."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"policy": "price", "capacity_factor": 1.25},
                {"policy": "drop", "quality_budget": {"score_kept_min": 0.97, "seconds": 5}},
                {"health": {"3": 0.0}},
                {"inject": {"3": 50.0, "5": "dead"}, "inject_for_s": 60},
                {"lane_us": 5.0},
            ]
        },
    )

    policy: str | None = Field(default=None, max_length=32)
    capacity_factor: Capacity | None = None
    quality_budget: QualityBudgetBody | None = Field(
        default=None, description="Of this switch; a later switch of policy or capacity_factor without one ends it"
    )
    health: dict[ExpertNumber, Annotated[float, Field(ge=0, le=1), AfterValidator(_finite)]] | None = Field(
        default=None,
        max_length=1_024,
        description="Expert -> share of its capacity that is left, 0 = dead; replaces all said before, {} = all well",
    )
    inject: dict[ExpertNumber, InjectedUs | Literal["dead"]] | None = Field(
        default=None,
        max_length=1_024,
        description="For experiments. Expert -> microseconds that each of its slots takes longer, or `dead`: it never "
        "answers. Engines really wait, measure it and route around it; replaces all said before, {} = none",
    )
    lane_us: LaneUs | None = Field(
        default=None,
        description="For experiments. Emulates one device per expert: microseconds that each takes for each of its "
        "slots. All work side by side and engines really wait for the fullest of each layer; 0 = off",
    )
    inject_for_s: float = Field(
        default=600.0,
        ge=1,
        le=86_400,
        description="How long `inject` and `lane_us` of this request last; then engines take them back by themselves",
    )

    @model_validator(mode="after")
    def _something(self) -> RouterBody:
        if "inject_for_s" in self.model_fields_set and self.inject is None and self.lane_us is None:
            raise ValueError("inject_for_s: comes with inject or lane_us")
        if self.policy is None and self.capacity_factor is None:
            if self.quality_budget is not None:
                raise ValueError("quality_budget: comes with a policy or a capacity_factor")
            if self.health is None and self.inject is None and self.lane_us is None:
                raise ValueError("name a policy, a capacity_factor, health, inject or lane_us")
        return self


class QualityBudgetAnswer(QualityBudgetBody):
    """The budget in force, and what comes back if it is broken."""

    previous_policy: str
    previous_capacity_factor: float


class PolicyReturned(BaseModel):
    """The last switch was taken back because it broke its budget."""

    why: str
    ts: int = Field(description="Unix milliseconds")


class RouterAnswer(BaseModel):
    """The routing policy wanted, and what each engine runs now (it follows within half a second)."""

    policy: str
    capacity_factor: float
    policies: list[str]
    active: dict[str, str] = Field(description="Engine -> policy of its last snapshot")
    health: dict[str, float] = Field(default={}, description="Experts that are not well; see the body of the PUT")
    inject: dict[str, float | Literal["dead"]] = Field(default={}, description="See the body of the PUT")
    inject_until: int | None = Field(default=None, description="Unix milliseconds of the end of `inject`")
    lane_us: float = Field(default=0.0, description="See the body of the PUT")
    lane_us_until: int | None = Field(
        default=None, description="Unix milliseconds of the end of `lane_us`; then what the settings say is back"
    )
    quality_budget: QualityBudgetAnswer | None = None
    returned: PolicyReturned | None = None


Policy = Annotated[str, Field(min_length=1, max_length=32), AfterValidator(_printable)]


class ComparisonBody(Body):
    """One query, and the two policies to route it by."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"query": {"user_id": "u1", "k": 10}, "policies": ["topk", "price"]}]},
    )

    query: RecommendationRequest
    policies: tuple[Policy, Policy] = Field(description="First and second; see `policies` of `GET /v1/router`")


class RoutedAnswer(BaseModel):
    """What one policy answers."""

    policy: str
    model_version: str
    items: list[RecommendedItem]
    degraded: Degraded
    cold_start: bool
    timing: Timing
    explain: list[Explanation] | None = None


class MovedItem(BaseModel):
    """An item that is in both answers, at another place; ranks start at 1."""

    item_id: str
    first_rank: int
    second_rank: int


class RoutingDifference(BaseModel):
    """From the first answer to the second."""

    came: list[str] = Field(description="Items of the second answer only")
    went: list[str] = Field(description="Items of the first answer only")
    moved: list[MovedItem]
    overlap: float = Field(description="Items in both, relative to items in either; 1 = the same items")
    score_kept: float = Field(description="Second minus first: share of the gate score")
    compute_ms: float = Field(description="Second minus first: time of the step in the engine")


class RouterComparison(BaseModel):
    """Both answers and what differs."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "first": {
                        "policy": "topk",
                        "model_version": "m-20",
                        "items": [{"item_id": "i7", "score": 0.41, "title": "Night Train"}],
                        "degraded": {"step": "redirect", "redirected": 0.0, "score_kept": 1.0},
                        "cold_start": False,
                        "timing": {"total_ms": 6.1, "queue_ms": 0.4, "compute_ms": 4.9},
                    },
                    "second": {
                        "policy": "price",
                        "model_version": "m-20",
                        "items": [{"item_id": "i3", "score": 0.40, "title": "Silver River"}],
                        "degraded": {"step": "redirect", "redirected": 0.31, "score_kept": 0.993},
                        "cold_start": False,
                        "timing": {"total_ms": 4.0, "queue_ms": 0.3, "compute_ms": 3.1},
                    },
                    "difference": {
                        "came": ["i3"],
                        "went": ["i7"],
                        "moved": [],
                        "overlap": 0.0,
                        "score_kept": -0.007,
                        "compute_ms": -1.8,
                    },
                }
            ]
        }
    )

    first: RoutedAnswer
    second: RoutedAnswer
    difference: RoutingDifference


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
