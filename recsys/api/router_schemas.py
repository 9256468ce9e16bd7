"""Bodies and answers of the router: the policy that is wanted, and one query under two of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from recsys.api.schemas import (
    Body,
    Degraded,
    Explanation,
    RecommendationRequest,
    RecommendedItem,
    Timing,
    finite,
    printable,
)

ExpertNumber = Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,3})$")]
Capacity = Annotated[float, Field(ge=1.0, le=16.0), AfterValidator(finite)]
LaneUs = Annotated[float, Field(ge=0, le=1_000), AfterValidator(finite)]
InjectedUs = Annotated[float, Field(ge=0, le=100_000), AfterValidator(finite)]


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
    health: dict[ExpertNumber, Annotated[float, Field(ge=0, le=1), AfterValidator(finite)]] | None = Field(
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


Policy = Annotated[str, Field(min_length=1, max_length=32), AfterValidator(printable)]


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
