"""Settings of every process, read from the environment (`RECSYS_` prefix, `__` between levels).

`RECSYS_ENGINE__QUEUE_MAX=512` sets `Settings().engine.queue_max`. Built once by each process's entry
point and passed in. Hyper-parameters of the model are not settings: they are saved with its weights.
Every field has its unit in its name and a line in `docs/settings.md`, which a test compares with this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from recsys.errors import InputError

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RedisSettings(_Section):
    """Where the stream and the state live."""

    url: str = Field("redis://127.0.0.1:6379/0", description="Redis or Valkey, `redis://`, `rediss://` or `unix://`")
    prefix: str = Field("recsys:", description="First part of every key", max_length=32)
    socket_timeout_s: PositiveFloat = Field(2.0, description="Longest wait for one reply")
    connect_timeout_s: PositiveFloat = Field(1.0, description="Longest wait for a connection")
    connections_max: PositiveInt = Field(64, description="Connections one process may open")


class EventSettings(_Section):
    """The event stream, its worker, and the bounds of what they keep."""

    group: str = Field("features", description="Consumer group of the state workers")
    batch_max: PositiveInt = Field(64, description="Entries read and applied in one atomic step")
    block_ms: PositiveInt = Field(500, description="Longest wait of one blocking read; below the socket time-out")
    claim_idle_ms: PositiveInt = Field(5_000, description="A dead worker's entries are taken over after this idle time")
    claim_every_ms: PositiveInt = Field(1_000, description="How often a worker looks for entries to take over")
    deliveries_max: PositiveInt = Field(5, description="An entry delivered more often goes to the dead letters")
    dedup_max: PositiveInt = Field(200_000, description="Event ids remembered to recognise a resent event")
    dedup_window_s: PositiveInt = Field(86_400, description="How long an event id is remembered")
    backlog_max: PositiveInt = Field(1_000_000, description="Entries not yet applied; above it intake answers 503")
    retain_entries: PositiveInt = Field(10_000, description="Applied entries kept in the stream for readers and replay")
    trim_every_ms: PositiveInt = Field(1_000, description="How often applied entries are trimmed")
    dead_letters_max: PositiveInt = Field(100_000, description="Dead letters kept")
    future_max_ms: PositiveInt = Field(300_000, description="An event further in the future than this is refused")
    late_after_ms: PositiveInt = Field(60_000, description="An event older than this on arrival is counted as late")
    reader_lag_max: PositiveInt = Field(
        200_000, description="Another group this far behind no longer keeps entries from being trimmed"
    )
    reconnect_max_s: PositiveFloat = Field(5.0, description="Longest pause between attempts to reach Redis")
    metrics_port: int = Field(0, ge=0, le=65_535, description="Worker's Prometheus port; 0 turns it off")


class StateSettings(_Section):
    """What is remembered of users and items, and for how long."""

    history_max: PositiveInt = Field(120, description="Interactions kept per user", le=500)
    hidden_max: PositiveInt = Field(200, description="Hidden items kept per user")
    user_ttl_s: PositiveInt = Field(90 * 86_400, description="A user's state is dropped after this time without events")
    impressions_per_user_max: PositiveInt = Field(20, description="Answers remembered per user to join interactions to")
    impression_ttl_s: PositiveInt = Field(3_600, description="How long an answer can be joined")
    popular_max: PositiveInt = Field(1_000, description="Items kept per popularity window")
    popular_refresh_s: PositiveFloat = Field(2.0, description="How often the API re-reads the popular items")


class ApiSettings(_Section):
    """The REST process."""

    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8000, ge=1, le=65_535, description="Port to listen on")
    workers: PositiveInt = Field(1, description="Processes")
    deadline_ms: PositiveInt = Field(500, description="Answer time when the caller names none (`X-Deadline-Ms`)")
    deadline_ms_max: PositiveInt = Field(10_000, description="Longest answer time a caller may ask for")
    in_flight_max: PositiveInt = Field(1_024, description="Requests waiting for an engine, per process; above it 503")
    body_bytes_max: PositiveInt = Field(262_144, description="Longest request body")
    k_max: PositiveInt = Field(200, description="Most items in one answer")
    candidates_max: PositiveInt = Field(2_000, description="Most candidates a caller may name")
    events_per_call_max: PositiveInt = Field(1_000, description="Most events in one call")
    admin_key: SecretStr | None = Field(None, description="Key for admin calls (`X-Api-Key`); none refuses them all")
    streams_max: PositiveInt = Field(
        64, description="Open streams of load snapshots (`GET /v1/experts/stream`), per process; above it 503"
    )
    rate_per_s: PositiveFloat | None = Field(
        None, description="Calls of `/v1` per second from one address, per process; none = no limit"
    )
    rate_burst: float = Field(100.0, ge=1, description="Calls at once that a caller who was quiet may make")
    rate_callers_max: PositiveInt = Field(10_000, description="Callers whose rate is remembered, per process")
    connections_max: PositiveInt = Field(
        4_096, description="Open connections, per process; above it the one that waited longest for a request is closed"
    )
    read_timeout_s: PositiveFloat = Field(
        10.0,
        description="Longest time for a request to arrive as a whole, then 408, and for a caller to take nothing of "
        "what it was sent",
    )
    impressions: bool = Field(True, description="Write an impression event for every answer")
    impressions_queue_max: PositiveInt = Field(
        10_000, description="Impressions waiting to be written; above it dropped and counted"
    )


class EngineSettings(_Section):
    """The process that owns a device."""

    endpoint: str = Field(
        "ipc:///tmp/recsys-engine.sock",
        description="ZeroMQ address, `ipc://` or `tcp://`; for the API, several with commas: one per engine",
        pattern=r"^(ipc|tcp)://[^\s,]+(,(ipc|tcp)://[^\s,]+)*$",
    )
    model_dir: Path = Field(Path("models/current"), description="Folder written by `recsys train`")
    models_dir: Path | None = Field(
        None,
        description="Folder with one folder per model version to choose from; none = the one that holds `model_dir`",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs")
    graphs_max: int = Field(
        64,
        ge=0,
        le=4_096,
        description="On CUDA: captured graphs kept, one per shape of a micro-batch; 0 = launch every kernel by itself",
    )
    threads: PositiveInt = Field(1, description="Intra-op threads; at most half the cores when processes share them")
    queue_max: PositiveInt = Field(512, description="Requests waiting for a micro-batch; above it refused")
    wait_max_ms: PositiveFloat = Field(
        50.0,
        description="Longest delay allowed in a burst that passes, from arrival at the engine to the answer; above it "
        "refused. In a crowd that stays, the queue is one micro-batch and delays are far below it",
    )
    batch_max: PositiveInt = Field(16, description="Most requests in one micro-batch")
    candidates: PositiveInt = Field(200, description="Candidates that retrieval hands to the ranker")
    candidates_economise: PositiveInt = Field(64, description="The same under high pressure")
    ladder: bool = Field(True, description="Redirect and economise under pressure; without it only refuse")
    snapshot_every_ms: PositiveInt = Field(250, description="Time between load snapshots")
    snapshots_max: PositiveInt = Field(2_400, description="Load snapshots kept (ten minutes at four a second)")
    catalogue_poll_ms: PositiveInt = Field(500, description="How often changed items are fetched")
    metrics_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="Engine's Prometheus port; 0 turns it off. Colocated engines' metrics are in the API's `/metrics`",
    )

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All addresses, for the API."""
        return tuple(self.endpoint.split(","))

    @property
    def own_endpoint(self) -> str:
        """The one address that an engine listens on.

        Raises:
            InputError: there are several.
        """
        if len(self.endpoints) > 1:
            name = "RECSYS_ENGINE__ENDPOINT"
            raise InputError(f"{name}: {len(self.endpoints)} addresses, an engine listens on one", field=name)
        return self.endpoint


class RouterSettings(_Section):
    """Policy at start; `PUT /v1/router` changes it live."""

    policy: str = Field("price", description="One of the registered policies")
    capacity_factor: float = Field(
        1.5, ge=1.0, le=16.0, description="Slots per expert relative to the mean load, in calm"
    )
    capacity_factor_min: float = Field(1.0, ge=1.0, le=16.0, description="The same under pressure")
    spare_slots: int = Field(
        0, ge=0, le=1_024, description="Slots beside one per expert, given to the hottest experts every few seconds"
    )
    capacity_factor_economise: float = Field(
        0.6, ge=0.1, le=1.0, description="The same under high pressure, by policies that bound the load"
    )
    lane_us: float = Field(
        0.0,
        ge=0,
        le=1_000,
        description="Emulates one device per expert: microseconds that each takes for each of its slots, all side by "
        "side, so that a layer lasts as long as its fullest expert; 0 = off",
    )


class OnlineSettings(_Section):
    """The learner: small steps on the stream between two trainings."""

    group: str = Field("learner", description="Consumer group of the learner")
    batch_max: PositiveInt = Field(64, description="Events learned from in one step")
    learning_rate: PositiveFloat = Field(0.1, description="Step size of Adagrad on the item vectors")
    first_square: PositiveFloat = Field(1e-4, description="Where Adagrad's sum of squares starts for a new item")
    settled_square: PositiveFloat = Field(1.0, description="The same for an item that was trained")
    user_items_max: PositiveInt = Field(
        100, description="Items that one user's events may move between two publications, each by one event"
    )
    change_max: PositiveFloat = Field(4.0, description="Longest change of an item's vector since the last publication")
    publish_every_s: PositiveFloat = Field(20.0, description="How often what was learned becomes a served version")
    guard_events: PositiveInt = Field(1_000, description="Newest events on which served and learned are compared")
    guard_events_min: PositiveInt = Field(50, description="Fewer than these publish nothing")
    guard_tolerance: Share = Field(0.01, description="Relative loss of NDCG taken for chance; above it a roll-back")
    lag_max: PositiveInt = Field(20_000, description="Entries behind from which the learner skips to the newest")
    versions_kept: int = Field(3, ge=2, le=100, description="Published versions whose folders are kept")
    metrics_port: int = Field(0, ge=0, le=65_535, description="Learner's Prometheus port; 0 turns it off")


class Settings(BaseSettings):
    """All settings; the one place where the environment is read."""

    model_config = SettingsConfigDict(
        env_prefix="RECSYS_", env_nested_delimiter="__", frozen=True, extra="ignore", validate_default=True
    )

    redis: RedisSettings = RedisSettings()
    events: EventSettings = EventSettings()
    state: StateSettings = StateSettings()
    api: ApiSettings = ApiSettings()
    engine: EngineSettings = EngineSettings()
    router: RouterSettings = RouterSettings()
    online: OnlineSettings = OnlineSettings()
    log_json: bool = Field(False, description="JSON log lines even on a terminal")
    seed: int = Field(0, ge=0, description="Seed of everything random")


def reference_table() -> str:
    """All settings as a Markdown table: variable, default, bounds, meaning."""
    rows = ["| variable | default | bounds | meaning |", "|---|---|---|---|"]
    for name, top in Settings.model_fields.items():
        section = top.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            rows += [_row(f"{name}__{inner}", field) for inner, field in section.model_fields.items()]
        else:
            rows.append(_row(name, top))
    return "\n".join(rows)


def _row(path: str, field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for bound in field.metadata
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("max_length", "length <="))
        if getattr(bound, name, None) is not None
    ]
    if get_origin(field.annotation) is Literal:
        bounds = [", ".join(get_args(field.annotation))]
    default = "" if field.default is None else f"`{field.default}`"
    return f"| `RECSYS_{path.upper()}` | {default} | {'; '.join(bounds)} | {field.description} |"
