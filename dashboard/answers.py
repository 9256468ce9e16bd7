"""What `/v1` answers, as far as the board reads it. Fields that it does not know are ignored.

The service owns this contract; the board imports none of its code, so a test holds the two sides equal.
"""

from __future__ import annotations

from typing import Any

import msgspec


class LayerLoad(msgspec.Struct, frozen=True, kw_only=True):
    """Load of one MoE layer during one snapshot interval; lists run over experts, units are expert slots.

    `demand` is what tokens wished for, `served` what was computed, `capacity` the most that could be;
    `flow[i]` = [expert wished for, expert used, slots].
    """

    demand: list[int]
    served: list[int]
    redirected_in: list[int]
    redirected_out: list[int]
    dropped: int
    capacity: list[float]
    price: list[float]
    max_over_mean_demand: float
    max_over_mean_served: float
    score_kept: float
    certified_gap: float
    flow: list[tuple[int, int, int]]


class LoadSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine did in one snapshot interval."""

    engine: str
    ts: int  # Unix ms
    interval_ms: float
    model_version: str
    policy: str
    capacity_factor: float
    step: str
    pressure: float
    queue: int
    queue_max: int
    answered: int
    refused: int
    expired: int
    failed: int
    batches: int
    batch_requests_mean: float
    tokens: int
    step_ms_p50: float
    step_ms_p99: float
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    layers: list[LayerLoad]
    health: list[float] = []  # share of its capacity that each expert has left
    replicas: list[int] = []  # blocks of slots of each expert
    lane_us: float = 0.0  # microseconds a slot takes on the emulated device of its expert; 0: there are none

    def layer(self, n: int) -> LayerLoad | None:
        """Load of one layer; None if the engine's model has fewer."""
        return self.layers[n] if n < len(self.layers) else None


class Experts(msgspec.Struct, frozen=True):
    """Load snapshots of all engines, oldest first."""

    engines: list[str]
    snapshots: list[LoadSnapshot]


class UserKind(msgspec.Struct, frozen=True):
    """Users whose history is most about one category, and each expert's share of the gate weight in their answers."""

    kind: str
    users: int
    share: list[float]


class ExpertUsersLayer(msgspec.Struct, frozen=True):
    """One MoE layer; lists run over experts. `leads` counts users in whose answer the expert had the largest share."""

    layer: int
    share: list[float]
    leads: list[int]
    kinds: list[UserKind]


class ExpertUsers(msgspec.Struct, frozen=True):
    """A sample of recent users by the experts that work for them."""

    asked: int
    answered: int
    layers: list[ExpertUsersLayer]


class QualityBudget(msgspec.Struct, frozen=True):
    """What the policy must keep of the gate score, and what comes back if it does not."""

    score_kept_min: float
    seconds: float
    previous_policy: str
    previous_capacity_factor: float


class PolicyReturned(msgspec.Struct, frozen=True):
    """The last switch was taken back because it broke its budget."""

    why: str
    ts: int  # Unix ms


class Router(msgspec.Struct, frozen=True):
    """The routing policy wanted, those on offer, what each engine runs, and which experts are not well."""

    policy: str
    capacity_factor: float
    policies: list[str]
    active: dict[str, str]
    health: dict[str, float] = {}
    inject: dict[str, float | str] = {}
    lane_us: float = 0.0  # one device per expert is emulated, with so many microseconds a slot; 0 = off
    quality_budget: QualityBudget | None = None
    returned: PolicyReturned | None = None


class ServedModel(msgspec.Struct, frozen=True):
    """What one engine serves."""

    engine: str
    model_version: str


class Models(msgspec.Struct, frozen=True):
    """Model versions in service, those on offer, the one activated last, and the one that a rollback brings."""

    models: list[ServedModel]
    available: list[str] = []
    wanted: str | None = None
    previous: str | None = None


class Item(msgspec.Struct, frozen=True):
    """One item of an answer, best first."""

    item_id: str
    score: float
    title: str | None = None
    categories: list[str] = []
    goals: dict[str, float] = {}


class Degraded(msgspec.Struct, frozen=True):
    """What an answer gave up for speed."""

    step: str = "calm"
    redirected: float = 0.0
    score_kept: float = 1.0


class Timing(msgspec.Struct, frozen=True):
    """Milliseconds spent where."""

    total_ms: float
    state_ms: float = 0.0
    queue_ms: float = 0.0
    compute_ms: float = 0.0


class Explanation(msgspec.Struct, frozen=True):
    """Experts of one item in one MoE layer."""

    item_id: str
    layer: int
    experts: list[int]
    gates: list[float]
    redirected_from: list[int] = []
    redirected_to: list[int] = []


class Recommendations(msgspec.Struct, frozen=True):
    """A list for a user, and how it came about."""

    request_id: str
    items: list[Item]
    model_version: str
    policy: str
    degraded: Degraded
    cold_start: bool
    timing: Timing
    fallback: str | None = None
    explain: list[Explanation] | None = None


class RoutedAnswer(msgspec.Struct, frozen=True):
    """What one policy answers."""

    policy: str
    model_version: str
    items: list[Item]
    degraded: Degraded
    cold_start: bool
    timing: Timing
    explain: list[Explanation] | None = None


class MovedItem(msgspec.Struct, frozen=True):
    """An item at another place in the second answer; ranks start at 1."""

    item_id: str
    first_rank: int
    second_rank: int


class RoutingDifference(msgspec.Struct, frozen=True):
    """From the first answer to the second."""

    came: list[str]
    went: list[str]
    moved: list[MovedItem]
    overlap: float
    score_kept: float
    compute_ms: float


class Comparison(msgspec.Struct, frozen=True):
    """One query under two policies."""

    first: RoutedAnswer
    second: RoutedAnswer
    difference: RoutingDifference


class RoutedTraffic(msgspec.Struct, frozen=True):
    """What one policy makes of a sample of the traffic."""

    policy: str
    answered: int
    refused: int
    steps: dict[str, int]
    score_kept: float
    redirected: float
    compute_ms_p50: float
    compute_ms_p99: float


class TrafficComparison(msgspec.Struct, frozen=True):
    """A sample of the traffic under two policies; shares over the queries that both answered."""

    kept: int
    asked: int
    first: RoutedTraffic
    second: RoutedTraffic
    compared: int
    same: float
    overlap: float
    first_item_same: float


class HistoryEntry(msgspec.Struct, frozen=True):
    """One remembered interaction."""

    item_id: str
    kind: str
    ts: int
    title: str | None = None


class User(msgspec.Struct, frozen=True):
    """What the service knows of a user, newest interaction first."""

    user_id: str
    attributes: dict[str, Any]
    history: list[HistoryEntry]
    hidden: list[str]
    counts: dict[str, int]


class Popular(msgspec.Struct, frozen=True):
    """Most used items in a window of time."""

    window: str
    items: list[Item]


class RejectedEvent(msgspec.Struct, frozen=True):
    """Why one event of a batch was not taken."""

    index: int
    field: str | None
    reason: str


class Events(msgspec.Struct, frozen=True):
    """What became of a batch of events."""

    accepted: int
    duplicates: int
    rejected: list[RejectedEvent]
    event_ids: list[str]


class Problem(msgspec.Struct, frozen=True):
    """An error, as `application/problem+json`."""

    title: str = ""
    status: int = 0
    detail: str = ""
    field: str | None = None
