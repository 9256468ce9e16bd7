"""Bodies and answers of the comparison of two policies on recent traffic."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from recsys.api.router_schemas import Policy
from recsys.api.schemas import Body


class TrafficComparisonBody(Body):
    """Two policies, and how much of the traffic of the last seconds to ask again."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"policies": ["topk", "price"], "seconds": 60, "most": 32}]}
    )

    policies: tuple[Policy, Policy] = Field(description="First and second; see `policies` of `GET /v1/router`")
    seconds: float = Field(default=60, ge=1, le=120, description="How far back")
    most: int = Field(default=32, ge=1, le=100, description="Queries asked again, spread evenly over that time")


class RoutedTraffic(BaseModel):
    """What one policy makes of the sample. Times are the engine's, per micro-batch."""

    policy: str
    answered: int
    refused: int
    steps: dict[str, int] = Field(description="Answers by step of the ladder")
    score_kept: float
    redirected: float
    compute_ms_p50: float
    compute_ms_p99: float


class TrafficComparison(BaseModel):
    """Both sides, and how far their lists agree, over the queries that both answered."""

    kept: int = Field(description="Queries of that time that this process remembers (the newest 512)")
    asked: int = Field(description="Of them, asked again")
    first: RoutedTraffic
    second: RoutedTraffic
    compared: int = Field(description="Answered by both")
    same: float = Field(description="Share of them with the same items in the same order")
    overlap: float = Field(description="Mean share of common items (Jaccard)")
    first_item_same: float = Field(description="Share of them with the same first item")
