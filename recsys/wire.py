"""What the API and the engines say to each other over ZeroMQ, and the load snapshot that engines publish.

API (DEALER) and engine (ROUTER) exchange bundles: a frame is one msgpack list of messages, because a frame costs more
than what is in it. Times left are relative milliseconds, so the two need no common clock. Every `RankRequest` gets
exactly one `RankReply`: answered, refused or expired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

Status = Literal["ok", "refused", "expired", "invalid", "failed"]
BUNDLE_MAX = 64  # messages in one frame


class Filters(msgspec.Struct, frozen=True, omit_defaults=True):
    """Conditions on items; an item must meet all of them."""

    categories_any: tuple[str, ...] = ()
    categories_none: tuple[str, ...] = ()
    year_min: int | None = None
    year_max: int | None = None


class RankRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="t", tag="rank"):
    """One query. `history` is newest last; `history_kinds` runs beside it."""

    id: str
    time_left_ms: float
    k: int
    history: tuple[str, ...] = ()
    history_kinds: tuple[str, ...] = ()
    candidates: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    exclude_seen: bool = True
    filters: Filters = Filters()
    diversity: float = 0.0
    goals: dict[str, float] = {}
    explain: bool = False
    priority: int = 0
    policy: str | None = None  # a policy for this request alone, which then runs in a batch of its own


class Ping(msgspec.Struct, frozen=True, tag_field="t", tag="ping"):
    """Are you there? Answered by a `Pong` as soon as it is read, before any request."""

    n: int


class ExpertUse(msgspec.Struct, frozen=True):
    """For `explain`: the experts that scored one item in one MoE layer, and whether they were second choices."""

    item_id: str
    layer: int
    experts: tuple[int, ...]
    gates: tuple[float, ...]
    redirected_from: tuple[int, ...] = ()
    redirected_to: tuple[int, ...] = ()


class RankReply(msgspec.Struct, omit_defaults=True, tag_field="t", tag="reply"):
    """The one answer to one `RankRequest`. `scores`, and a list for each goal, run beside `item_ids`, best first."""

    id: str
    status: Status
    item_ids: list[str] = []
    scores: list[float] = []
    goals: dict[str, list[float]] = {}
    model_version: str = ""
    policy: str = ""
    step: str = "calm"
    score_kept: float = 1.0
    redirected: float = 0.0
    cold_start: bool = False
    candidates: int = 0
    batch_requests: int = 0
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    experts: tuple[ExpertUse, ...] = ()
    error: str = ""
    retry_after_s: float = 0.0
    elsewhere: bool = False  # refused because this engine starts or stops: another one may answer


class Similar(msgspec.Struct, frozen=True, tag_field="t", tag="similar"):
    """Items nearest to one item in the model's embedding."""

    id: str
    time_left_ms: float
    item_id: str
    k: int


class Pong(msgspec.Struct, frozen=True, tag_field="t", tag="pong"):
    """Answer to a `Ping`."""

    n: int
    ready: bool
    queue: int
    model_version: str


ToEngine = RankRequest | Similar | Ping
FromEngine = RankReply | Pong


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLoad:
    """Load of one MoE layer since the last snapshot; lists run over experts.

    `demand` counts unconstrained wishes, `served` the slots really used, `redirected_in` the served slots that were
    not the token's own wish, `redirected_out` the wishes that went elsewhere, `flow[i]` = [from, to, slots].
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSnapshot:
    """What one engine did in one snapshot interval; published to the telemetry stream.

    `health` is the share of its capacity that each expert is given, `replicas` its slots with the spare ones,
    `injected_us` expert -> microseconds per slot that are injected (dead: it never answers), `lane_us` those that each
    slot takes on the emulated device of its expert (0: there are none), `score_kept_min` the bound of the policy's
    quality budget, `returned` why the policy went back by itself a moment ago.
    """

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
    latency_ms_p50: float  # from arrival at the engine to the answer
    latency_ms_p95: float
    latency_ms_p99: float
    layers: list[LayerLoad]
    health: list[float] = field(default_factory=list)
    replicas: list[int] = field(default_factory=list)
    injected_us: dict[str, float | Literal["dead"]] = field(default_factory=dict)
    lane_us: float = 0.0
    score_kept_min: float | None = None
    returned: str = ""


class EngineModels(msgspec.Struct, frozen=True):
    """What one engine says of its model versions; `error`: why the last wanted one is not served."""

    version: str
    available: list[str]
    activation: str = ""
    error: str = ""


encode = msgspec.msgpack.Encoder().encode  # a bundle: a list of messages


def bundles(messages: Sequence[ToEngine | FromEngine]) -> Iterator[bytes]:
    """Messages in order as frames of at most `BUNDLE_MAX`."""
    for first in range(0, len(messages), BUNDLE_MAX):
        yield encode(messages[first : first + BUNDLE_MAX])


def _reader(kind: Any) -> Callable[[bytes], tuple[list[Any], list[str]]]:
    whole = msgspec.msgpack.Decoder(list[kind]).decode
    parts = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
    single = msgspec.msgpack.Decoder(kind).decode

    def read(frame: bytes) -> tuple[list[Any], list[str]]:
        try:
            return whole(frame), []
        except Exception:  # whatever a stranger sends: msgspec, Unicode, recursion
            found, errors = [], []
        try:
            raws = parts(frame)
        except Exception as error:
            return [], [str(error)]
        for raw in raws:  # one wrong message does not take the others with it
            try:
                found.append(single(raw))
            except Exception as error:
                errors.append(str(error))
        return found, errors

    return read


_read_to_engine, _read_from_engine = _reader(ToEngine), _reader(FromEngine)


def decode_to_engine(frame: bytes) -> tuple[list[ToEngine], list[str]]:
    """Messages of a bundle in order, and what is wrong with those that cannot be read."""
    return _read_to_engine(frame)


def decode_from_engine(frame: bytes) -> tuple[list[FromEngine], list[str]]:
    """Messages of a bundle in order, and what is wrong with those that cannot be read."""
    return _read_from_engine(frame)


encode_snapshot = msgspec.json.Encoder().encode
decode_snapshot = msgspec.json.Decoder(LoadSnapshot).decode
