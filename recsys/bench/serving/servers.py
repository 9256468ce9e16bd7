"""The servers of the bench: what each is started with, what it is asked, and when it is ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recsys.bench.serving.questions import ITEMS, REAL_ITEMS

WORKERS = 2
PEERS = "recsys.bench.serving.peers"
SERVE = ("{python}", "-m", "recsys.cli", "serve")


@dataclass(frozen=True, slots=True)
class Server:
    """One way to serve the ranker.

    Attributes:
        name: as shown.
        commands: command line of each process by name; `{port}` and `{python}` are filled in.
        config: what was chosen, in words, for the table.
        env: of all processes.
        wire: format of the questions.
        path: of the call.
        package: that must be installed where `{python}` comes from; "" for what this project needs anyway.
        redis: whether it needs one, filled with the catalogue and users.
        items: of that catalogue.
        pause: whether it may be stopped between its turns.
    """

    name: str
    commands: Mapping[str, Sequence[str]]
    config: str
    env: Mapping[str, str] = field(default_factory=dict)
    wire: str = "plain"
    path: str = "/recommend"
    package: str = ""
    redis: bool = False
    items: int = ITEMS
    pause: bool = True


def uvicorn(app: str) -> dict[str, Sequence[str]]:
    """Two worker processes of an ASGI app."""
    options = "--host 127.0.0.1 --loop uvloop --http httptools --no-access-log --log-level warning --backlog 4096"
    command = ["{python}", "-m", "uvicorn", f"{PEERS}.{app}:app", "--factory", "--port", "{port}", "--workers", "2"]
    return {"server": [*command, *options.split()]}


def module(name: str, *options: str) -> dict[str, Sequence[str]]:
    """A server that starts itself."""
    return {"server": ["{python}", "-m", f"{PEERS}.{name}", *options]}


def ours(name: str, config: str, *, wire: str = "by_history", app: str = "plain", colocated: bool = False) -> Server:
    """The service with the small ranker in its engines."""
    small = ["{python}", "-m", "recsys.bench.serving.small_engine"]
    env = {"RECSYS_ENGINE__WAIT_MAX_MS": "1000", "BENCH_APP": app}
    return _service(name, config, env, engine=small, both=[*small, "colocated"] if colocated else None, wire=wire)


def ours_real(name: str, config: str, *, colocated: bool) -> Server:
    """The service with the project's own model; nothing is refused or spared: the bare model knows neither."""
    config = f"{config}, batches of 16, 200 candidates"
    env = {"RECSYS_ENGINE__WAIT_MAX_MS": "5000", "RECSYS_ENGINE__LADDER": "false"}
    both = [*SERVE, "colocated"] if colocated else None
    return _service(name, config, env, engine=[*SERVE, "engine"], both=both, wire="history_only", items=REAL_ITEMS)


def _service(
    name: str,
    config: str,
    env: Mapping[str, str],
    *,
    engine: Sequence[str],
    both: Sequence[str] | None,
    wire: str,
    items: int = ITEMS,
) -> Server:
    """Two processes of `both`, API and engine in one, or without it one API process and two of `engine`."""
    apart = {f"engine-{n}": engine for n in range(1, WORKERS + 1)} | {"api": [*SERVE, "api"]}
    return Server(
        name,
        {"server": both} if both else apart,
        config,
        env={
            "RECSYS_API__IMPRESSIONS": "false",
            "RECSYS_API__WORKERS": str(WORKERS if both else 1),
            "RECSYS_API__DEADLINE_MS": "5000",
            **env,
        },
        wire=wire,
        path="/v1/recommendations",
        redis=True,
        items=items,
    )


OURS_REAL = (
    ours_real("ours real", "1 API process, 2 engines of 1 thread", colocated=False),
    ours_real("ours real colocated", "2 processes, each API and engine of 1 thread", colocated=True),
)

BATCHED = "batches of 64, wait 2 ms"

SERVERS = (
    Server("echo", uvicorn("asgi"), "uvicorn, 2 workers; same bytes, no model", {"BENCH_APP": "echo"}),
    Server("raw ASGI", uvicorn("asgi"), "uvicorn, 2 workers; ranks in the loop what arrived", {"BENCH_APP": "drain"}),
    Server("raw ASGI split", uvicorn("asgi"), "the same, first layer as tables", {"BENCH_APP": "split"}),
    Server("FastAPI", uvicorn("fastapi_app"), "uvicorn, 2 workers; async route, per request", {"BENCH_APP": "one"}),
    Server(
        "FastAPI batched", uvicorn("fastapi_app"), f"uvicorn, 2 workers; thread, {BATCHED}", {"BENCH_APP": "batched"}
    ),
    Server(
        "LitServe",
        module("litserve_app"),
        f"2 workers, 2 API servers, fast queue, {BATCHED}",
        package="litserve",
    ),
    Server(
        "BentoML",
        {
            "server": [
                "{python}",
                "-m",
                "bentoml",
                "serve",
                f"{PEERS}.bentoml_app:Rank",
                "--host",
                "127.0.0.1",
                "--port",
                "{port}",
            ]
        },
        "2 workers, adaptive batches of 64, at most 1 s; no metrics, no access log",
        {"BENTOML_DO_NOT_TRACK": "true"},
        wire="listed",
        package="bentoml",
    ),
    Server(
        "Ray Serve",
        module("ray_app"),
        f"2 replicas, HAProxy and throughput flags, {BATCHED}",
        {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        package="ray",
    ),
    Server(
        "mosec",
        module(
            "mosec_app", "--port", "{port}", "--address", "127.0.0.1", "--log-level", "warning", "--timeout", "30000"
        ),
        f"2 workers, {BATCHED}",
        path="/inference",
        package="mosec",
    ),
    ours("ours", "1 API process, 2 engines; the history in the request"),
    ours("ours with state", "the same; the history from Redis", wire="by_user"),
    ours("ours colocated", "2 processes, each API and engine; the history in the request", colocated=True),
    ours("ours colocated with state", "the same; the history from Redis", wire="by_user", colocated=True),
    ours(
        "ours colocated split", "2 processes, each API and engine; first layer as tables", app="split", colocated=True
    ),
)
