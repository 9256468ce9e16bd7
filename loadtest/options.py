"""What a run can be told: one table for the command line, the environment, the web UI and the checks."""

from __future__ import annotations

import ipaddress
from argparse import Namespace
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

ENV_PREFIX = "LOADTEST_"
# A web form must not choose files or open the world.
COMMAND_LINE_ONLY = frozenset({"tastes", "events_file", "event_columns", "summary_file", "allow_remote"})
SHAPE_NAMES = (
    "steady", "step", "flash_crowd", "hot_item", "diurnal", "self_exciting", "slow_expert", "dead_expert", "replay",
    "demo",
)  # fmt: skip
AROUND_A_CROWD = frozenset({"flash_crowd", "hot_item", "slow_expert", "dead_expert"})


class LoadTestError(Exception):
    """The run cannot start: a wrong option, file or target."""


def _option(
    default: Any, help: str, *, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    return field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Validated options of one run.

    Every field is a flag (`--crowd-factor`), an environment variable (`LOADTEST_CROWD_FACTOR`) and, but for
    `COMMAND_LINE_ONLY`, a field of Locust's web form.

    Raises:
        LoadTestError: naming the flag and its bounds.
    """

    shape: str = _option("steady", "which load over time", choices=SHAPE_NAMES)
    tastes: str = _option("var/world/tastes.json", "file with the world's items, users and tastes")
    rate: float = _option(20.0, "recommendation requests per second in calm, or their mean", low=0.01, high=20_000)
    duration: float = _option(60.0, "length of the run in seconds; `demo` has no end", low=0.1, high=86_400)
    crowd_factor: float = _option(10.0, "rate of the crowd, last step or peak relative to calm", low=1, high=1_000)
    crowd_seconds: float = _option(30.0, "how long a crowd stays, or an expert is sick", low=0.1, high=3_600)
    crowd_share: float = _option(0.7, "share of the crowd's requests on its one category or item", low=0.5, high=1)
    crowd_every: float = _option(180.0, "seconds from one crowd to the next (`demo`)", low=1, high=86_400)
    category: str = _option("", "category of the crowd; empty = drawn by popularity, a new one each time")
    item: str = _option("", "item of the crowd (`hot_item`); empty = drawn by popularity")
    steps: int = _option(5, "levels of `step`", low=2, high=50)
    excitation: float = _option(0.8, "requests that each request brings (`self_exciting`)", low=0, high=0.95)
    excitation_s: float = _option(2.0, "mean seconds until they come", low=0.01, high=3_600)
    expert: int = _option(0, "which expert is sick (`slow_expert`, `dead_expert`)", low=0, high=4_095)
    expert_slow_us: float = _option(
        50.0, "microseconds that each slot of a slow expert takes longer", low=0.1, high=100_000
    )
    events_file: str = _option("", "real events to replay: a MovieLens file or any csv (`replay`)")
    event_columns: str = _option(
        "user=1,item=2,value=3,ts=4", "its columns user, item, ts, and value or kind: numbers, or names of a header"
    )
    k: int = _option(10, "items asked for", low=1, high=1_000)
    session_length: float = _option(8.0, "mean requests of a session", low=1, high=1_000)
    zipf: float = _option(0.5, "users are drawn by activity / rank ** zipf; 0 = by activity alone", low=0, high=3)
    seed: int = _option(0, "same seed, same arrivals, users and whims", low=0, high=2**63 - 1)
    outstanding: int = _option(512, "requests in flight at most; what comes beyond is not sent", low=1, high=900)
    timeout: float = _option(5.0, "seconds after which an unanswered request is an error", low=0.05, high=120)
    max_p99_ms: float = _option(0.0, "fail if a phase's p99 is above; 0 = not judged", low=0, high=600_000)
    max_p99_ratio: float = _option(0.0, "fail if crowd p99 / calm p99 is above; 0 = not judged", low=0, high=1_000)
    max_error_share: float = _option(0.01, "fail if errors / answered is above; shed is no error", low=0, high=1)
    max_shed_share: float = _option(1.0, "fail if refused (503, 429) / answered is above", low=0, high=1)
    min_achieved: float = _option(0.98, "fail if sent on time / offered is below", low=0, high=1)
    summary_file: str = _option("", "write the summary to this file as JSON")
    allow_remote: bool = _option(False, "permit a target that is not this machine")

    def __post_init__(self) -> None:
        for spec in fields(self):
            value, name = getattr(self, spec.name), flag(spec.name)
            low, high, choices = spec.metadata["low"], spec.metadata["high"], spec.metadata["choices"]
            if choices and value not in choices:
                raise LoadTestError(f"{name}: {value!r} is not one of {', '.join(choices)}")
            if low is not None and not low <= value <= high:  # NaN fails too
                raise LoadTestError(f"{name}: {value} is not within {low} and {high}")
        if self.shape in AROUND_A_CROWD and self.duration <= self.crowd_seconds:
            raise LoadTestError(
                f"--duration: {self.duration} s leaves no calm around the {self.crowd_seconds} s of --crowd-seconds"
            )
        if self.shape == "replay" and not self.events_file:
            raise LoadTestError("--events-file: --shape replay needs a file of real events")
        if self.shape == "demo" and self.crowd_every <= self.crowd_seconds:
            raise LoadTestError(
                f"--crowd-every: {self.crowd_every} s leaves no calm after {self.crowd_seconds} s of --crowd-seconds"
            )

    @classmethod
    def from_namespace(cls, parsed: Namespace) -> Options:
        """The options among Locust's parsed arguments."""
        return cls(**{spec.name: getattr(parsed, spec.name) for spec in fields(cls)})


def as_arguments(options: Options) -> list[str]:
    """The command line that gives these options again."""
    arguments = []
    for spec in fields(options):
        value = getattr(options, spec.name)
        if not isinstance(value, bool):
            arguments.append(f"{flag(spec.name)}={value}")
        elif value:
            arguments.append(flag(spec.name))
    return arguments


def flag(name: str) -> str:
    """`crowd_factor` -> `--crowd-factor`."""
    return "--" + name.replace("_", "-")


def add_arguments(parser: Any, *, web_form: bool = False) -> None:
    """Add every option to `parser`, a configargparse parser; `web_form` if it is Locust's, which feeds its web UI."""
    for spec in fields(Options):
        settings = {"dest": spec.name, "help": spec.metadata["help"], "env_var": ENV_PREFIX + spec.name.upper()}
        if web_form:
            settings["include_in_web_ui"] = spec.name not in COMMAND_LINE_ONLY
        if isinstance(spec.default, bool):
            parser.add_argument(flag(spec.name), action="store_true", **settings)
            continue
        settings["help"] += f" (default {spec.default})" if spec.default != "" else ""
        choices = list(spec.metadata["choices"]) or None
        parser.add_argument(flag(spec.name), type=type(spec.default), default=spec.default, choices=choices, **settings)


def check_target(host: str | None, *, allow_remote: bool) -> str:
    """The base URL to load, which is this machine unless another one is permitted.

    Raises:
        LoadTestError: no `http://host:port`, or a host that is not a loopback address.
    """
    if not host:
        raise LoadTestError("--host: required, for example http://127.0.0.1:8000")
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError as error:
        raise LoadTestError(f"--host: {host!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise LoadTestError(f"--host: {host!r} is not of the form http://127.0.0.1:8000")
    if not allow_remote and not _is_loopback(parts.hostname):
        raise LoadTestError(f"--host: {parts.hostname} is not this machine; --allow-remote permits it")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{name}" + (f":{port}" if port else "")


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
