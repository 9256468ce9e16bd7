"""Load runs started from the board: one at a time, bounded in rate and length, ended with the board.

A run is `python -m loadtest` as a child process; it speaks HTTP to the service like any other client. The board's own
poller watches the engines meanwhile, so that a report has both sides: what clients met and what experts did. A run may
give each expert an emulated device of its own; the service takes that back when the run ends, or by itself.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from dashboard.answers import LoadSnapshot
from dashboard.client import ApiError, Client

CROWDS = frozenset({"flash_crowd", "hot_item"})
FAULTS = frozenset({"slow_expert", "dead_expert"})
CLIMBS = frozenset({"step", "diurnal"})
SHAPES = (
    "flash_crowd",
    "hot_item",
    "step",
    "diurnal",
    "self_exciting",
    "slow_expert",
    "dead_expert",
    "replay",
    "steady",
)
RATE_MAX = 1_000.0  # requests/s at the peak: one generator process keeps up with this
SECONDS_MAX = 100.0  # the poller remembers two minutes
LANE_US_MAX = 1_000.0
GRACE_S = 25.0  # after the last request was due, for what is in flight and for the start
LOG_SHOWN = 600
PHASES = {"calm": "before", "crowd": "during", "after": "after"}
KEY_VARIABLE = "LOADTEST_ADMIN_KEY"


class BurstError(Exception):
    """A run cannot start; the text is fit to be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to offer. Rates in requests/s, lengths in seconds.

    Raises:
        BurstError: naming the value and its bound.
    """

    shape: str = "flash_crowd"
    rate: float = 20.0  # in calm, or the mean
    crowd_factor: float = 10.0
    around_s: float = 10.0  # before what happens in the middle, and again after it; else the whole length
    crowd_s: float = 20.0
    category: str = ""
    expert: int = 0
    slow_us: float = 50.0  # microseconds that each slot of a slow expert takes longer
    lane_us: float = 0.0  # microseconds a slot takes on the emulated device of its expert; 0 = the service as it is
    events_file: str = ""

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise BurstError(f"shape: {self.shape!r} is not one of {', '.join(SHAPES)}")
        if not 1 <= self.peak <= RATE_MAX:
            raise BurstError(f"rate: {self.peak:g} requests/s at the peak, from 1 to {RATE_MAX:g} are possible")
        if not 2 <= self.seconds <= SECONDS_MAX:
            raise BurstError(f"length: {self.seconds:g} s in all, from 2 to {SECONDS_MAX:g} are possible")
        if not 0 <= self.lane_us <= LANE_US_MAX:
            raise BurstError(f"emulated devices: {self.lane_us:g} µs per slot, from 0 to {LANE_US_MAX:g} are possible")
        if self.shape == "replay" and not self.events_file:
            raise BurstError(
                "`RECSYS_DASHBOARD_EVENTS` does not name a file of real events, such as MovieLens' `u.data`."
            )

    @property
    def has_middle(self) -> bool:
        """Something happens in the middle, with calm around it."""
        return self.shape in CROWDS | FAULTS

    @property
    def peak(self) -> float:
        """Largest offered rate, requests/s; of a self-exciting load and of real events the mean."""
        return self.rate * (self.crowd_factor if self.shape in CROWDS | CLIMBS else 1.0)

    @property
    def seconds(self) -> float:
        """Length of the whole run."""
        return 2 * self.around_s + self.crowd_s if self.has_middle else self.around_s

    def phase_at(self, elapsed_s: float) -> str:
        """`before`, `during`, `after`, `running` where there is no middle, or `ending`."""
        if elapsed_s >= self.seconds:
            return "ending"
        if not self.has_middle:
            return "running"
        if elapsed_s < self.around_s:
            return "before"
        return "during" if elapsed_s < self.around_s + self.crowd_s else "after"

    def arguments(self) -> list[str]:
        """Of `python -m loadtest`."""
        told = [f"--shape={self.shape}", f"--rate={self.rate:g}", f"--duration={self.seconds:g}"]
        if self.shape in CROWDS | CLIMBS:
            told += [f"--crowd-factor={self.crowd_factor:g}"]
        if self.has_middle:
            told += [f"--crowd-seconds={self.crowd_s:g}"]
        if self.shape == "flash_crowd" and self.category:
            told += [f"--category={self.category}"]
        if self.shape in FAULTS:
            told += [f"--expert={self.expert}", f"--expert-slow-us={self.slow_us:g}"]
        if self.shape == "replay":
            told += [f"--events-file={self.events_file}"]
        return told


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """A run, going on or over."""

    plan: Plan
    policy: str = ""
    began: float = field(default_factory=time.monotonic)
    elapsed_s: float | None = None  # None while it goes on
    stopped: bool = False
    summary: dict[str, Any] | None = None
    snapshots: tuple[LoadSnapshot, ...] = ()
    error: str = ""

    @property
    def going_on(self) -> bool:
        """Its process lives."""
        return self.elapsed_s is None


def missing(tastes: str) -> list[str]:
    """What a run needs and does not find, in words; empty if it can start."""
    told = []
    for package, what in (("loadtest", "the load test of this project"), ("locust", "what it is built on")):
        if importlib.util.find_spec(package) is None:
            told.append(f"The package `{package}` ({what}) is not installed where the board runs.")
    if not tastes:
        told.append("`RECSYS_DASHBOARD_TASTES` does not name a file with the world's tastes (`tastes.json`).")
    elif not Path(tastes).is_file():
        told.append(f"`RECSYS_DASHBOARD_TASTES` names `{tastes}`, and there is no such file.")
    return told


class Lab:
    """Starts, watches and stops runs; safe to use from several threads.

    Args:
        look: the snapshots known now, oldest first; called once a second during a run.
    """

    def __init__(self, look: Callable[[], tuple[LoadSnapshot, ...]]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        atexit.register(self.stop)

    def run(self) -> Run | None:
        """The present run, else the last one."""
        return self._run

    def start(self, plan: Plan, *, url: str, tastes: str, key: str = "") -> None:
        """Begin a run against the service at `url`; `key` is its admin key, for sick experts and emulated devices.

        Raises:
            BurstError: a run goes on already, or something is missing.
            ApiError: the service does not emulate devices: it is not there, or does not take the key.
        """
        with self._lock:
            if self._run is not None and self._run.going_on:
                raise BurstError("A run goes on already; stop it or wait.")
            if plan.shape in FAULTS and not key:
                raise BurstError("A sick expert needs the admin key of the service.")
            if plan.lane_us and not key:
                raise BurstError("One device per expert needs the admin key of the service.")
            if lack := missing(tastes):
                raise BurstError(" ".join(lack))
            end_emulation = _emulation(Client(url), plan, key)
            folder = tempfile.TemporaryDirectory(prefix="burst-")
            path = Path(folder.name)
            command = [sys.executable, "-m", "loadtest", *plan.arguments(), f"--host={url}", f"--tastes={tastes}"]
            command += ["--json", str(path / "summary.json"), "--csv", str(path / "run"), "--loglevel", "WARNING"]
            with (path / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"PYTHONWARNINGS": "ignore", KEY_VARIABLE: key},
                )
            self._stopping = False
            before = self._look()
            self._run = Run(plan=plan, policy=before[-1].policy if before else "")
            told = (self._run, self._process, folder, before[-1].ts if before else 0, end_emulation)
            threading.Thread(target=self._watch, args=told, daemon=True).start()

    def stop(self) -> None:
        """Ask the run to end; it still writes its summary."""
        process = self._process
        if process is not None and process.poll() is None:
            self._stopping = True
            process.terminate()

    def _watch(
        self,
        run: Run,
        process: subprocess.Popen[bytes],
        folder: tempfile.TemporaryDirectory[str],
        first_ms: int,
        end_emulation: Callable[[], None],
    ) -> None:
        deadline = run.began + run.plan.seconds + GRACE_S
        while process.poll() is None:
            self._look()
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(0.5)
        end_emulation()
        with folder:
            summary, error = _outcome(Path(folder.name), process.returncode)
        self._run = Run(
            plan=run.plan,
            policy=run.policy,
            began=run.began,
            elapsed_s=time.monotonic() - run.began,
            stopped=self._stopping,
            summary=summary,
            snapshots=tuple(s for s in self._look() if s.ts > first_ms),
            error=error,
        )


def _emulation(client: Client, plan: Plan, key: str) -> Callable[[], None]:
    """Give experts the devices of a plan; what takes them back. They end by themselves too, should the board die."""
    if not plan.lane_us:
        return lambda: None
    client.emulate_devices(plan.lane_us, for_s=plan.seconds + GRACE_S, key=key)

    def end() -> None:
        with contextlib.suppress(ApiError):
            client.emulate_devices(0.0, for_s=1.0, key=key)  # then what the settings of the service say is back

    return end


def _outcome(folder: Path, code: int) -> tuple[dict[str, Any] | None, str]:
    """The summary, or why there is none. A threshold that did not hold (exit code 1) is in the summary."""
    try:
        return msgspec.json.decode((folder / "summary.json").read_bytes(), type=dict[str, Any]), ""
    except (OSError, msgspec.DecodeError):
        log = (folder / "log").read_text(errors="replace").strip()[-LOG_SHOWN:]
        return None, f"The run ended with exit code {code} and left no summary. {log}"
