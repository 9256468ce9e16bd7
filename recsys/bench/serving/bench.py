"""`recsys bench serve`: all servers are started once and take turns in every round, stopped while it is not theirs.

So a disturbance of the machine falls on all of them, and the figures are medians over rounds. Servers have two cores,
the load has two others. Before anything is measured, every server that ranks must give the same answers.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from recsys.bench.serving import real_ranker, small_engine
from recsys.bench.serving.measure import Trial, bare_rate, load
from recsys.bench.serving.running import Running, python_with
from recsys.bench.serving.servers import OURS_REAL, SERVERS, WORKERS, Server
from recsys.errors import RecsysError, UnavailableError

Row = dict[str, float | str]

CONNECTIONS = (64, 256)
RATE = 1_000.0
SHARES = (0.3, 0.6, 0.9)
RATED_CONNECTIONS = 256
SAME_ANSWERS = 3  # questions that must be answered alike


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What is measured, for how long and where."""

    peers: tuple[Path, ...] = ()
    rounds: int = 3
    seconds: float = 2.0
    only: tuple[str, ...] = ()
    server_cores: tuple[int, ...] = (0, 1)
    client_cores: tuple[int, ...] = (2, 3)

    def __post_init__(self) -> None:
        """Check the cores.

        Raises:
            UnavailableError: this machine has not enough of them, or no way to pin a process to one.
        """
        there = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        missing = {*self.server_cores, *self.client_cores} - there
        if missing:
            raise UnavailableError(
                f"cores {sorted(missing)}: not available here, this bench pins its processes (Linux)"
            )


@dataclass(slots=True)
class Taken:
    """Everything measured of one server. Trials by what was asked: ("c", 64), ("rate", 1000.0), ("share", 0.3)."""

    running: Running
    memory_mb: float = 0.0
    trials: dict[tuple[str, float], list[Trial]] = field(default_factory=lambda: defaultdict(list))

    def median(self, kind: tuple[str, float], of: Callable[[Trial], float]) -> float:
        """Over the rounds."""
        return statistics.median(of(trial) for trial in self.trials[kind])

    def per_s(self, connections: int) -> float:
        """Saturation."""
        return self.median(("c", connections), lambda trial: trial.per_s)


def run_serve(options: ServeOptions, console: Console) -> tuple[list[Row], list[Row]]:
    """Rows of the small ranker behind every server, and of the real one behind the service."""
    with tempfile.TemporaryDirectory(prefix="recsys-serve-") as name:
        taken, absent = _all_servers(options, Path(name), console)
        wanted = [server for server in OURS_REAL if not options.only or server.name in options.only]
        real = _real(wanted, options, Path(name), console) if wanted else []
    if not taken and not real:
        raise UnavailableError("no server could be measured")
    rows = [_row(one, taken) for one in taken]
    rows += [{**dict.fromkeys(rows[0], ""), "server": name, "config": why} for name, why in absent]
    return rows, real


def _all_servers(options: ServeOptions, folder: Path, console: Console) -> tuple[list[Taken], list[tuple[str, str]]]:
    wanted = [server for server in SERVERS if not options.only or server.name in options.only]
    model = small_engine.write_model_folder(folder / "small")
    absent: list[tuple[str, str]] = []
    expected: dict[int, list[int]] = {}
    with ExitStack() as stack:
        taken = []
        for n, server in enumerate(wanted):
            python = python_with(server.package, options.peers)
            if python is None:
                absent.append((server.name, f"not measured: {server.package} is not installed"))
                console.print(f"{server.name}: {absent[-1][1]}")
                continue
            running = Running(
                server, folder / str(n), cores=options.server_cores, python=python, model=model, workers=WORKERS
            )
            try:
                one = Taken(stack.enter_context(running))
                _check_answers(one, expected)
            except (RecsysError, OSError) as error:
                why = str(error).splitlines()[-1][:120].translate({ord("["): "(", ord("]"): ")"})  # no markup
                absent.append((server.name, f"not measured: {why}"))
                console.print(f"{server.name}: {error}", markup=False)
                continue
            taken.append(one)
            console.print(f"{server.name}: ready after {running.ready_s:.1f} s")
            running.pause()
        _rounds(taken, options, console)
    return taken, absent


def _check_answers(one: Taken, expected: dict[int, list[int]]) -> None:
    """Raises `UnavailableError` if a server ranks otherwise than the first that ranks."""
    if one.running.server.name == "echo":
        return
    for question in range(SAME_ANSWERS):
        found = one.running.best(question)
        if found != expected.setdefault(question, found):
            raise UnavailableError(f"another answer to question {question} than the others")


def _rounds(taken: Sequence[Taken], options: ServeOptions, console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Rounds", total=(options.rounds + 1) * len(taken))
        for turn in range(options.rounds + 1):
            for one in taken:
                progress.update(task, description=f"round {turn + 1}: {one.running.server.name}")
                one.running.resume()
                _ask(one, connections=CONNECTIONS[0], seconds=options.seconds / 4, kind=None, options=options)
                if turn < options.rounds:
                    for connections in CONNECTIONS:
                        _ask(one, connections=connections, kind=("c", connections), options=options)
                    _ask(one, rate=RATE, kind=("rate", RATE), options=options, seed=turn)
                    one.memory_mb = max(one.memory_mb, one.running.memory_mb())
                else:
                    most = max(one.per_s(connections) for connections in CONNECTIONS)
                    for share in SHARES:
                        _ask(one, rate=share * most, kind=("share", share), options=options)
                one.running.pause()
                progress.advance(task)


def _ask(
    one: Taken,
    *,
    kind: tuple[str, float] | None,
    options: ServeOptions,
    connections: int = RATED_CONNECTIONS,
    seconds: float = 0.0,
    rate: float = 0.0,
    seed: int = 0,
) -> None:
    trial = load(
        one.running,
        options.client_cores,
        connections=connections,
        seconds=seconds or options.seconds,
        rate=rate,
        seed=seed,
    )
    if kind is not None:
        one.trials[kind].append(trial)


def _row(one: Taken, taken: Sequence[Taken]) -> Row:
    server = one.running.server
    row: Row = {"server": server.name, "version": version_of(server, one.running.python)}
    for connections in CONNECTIONS:
        row[f"per_s_{connections}"] = one.per_s(connections)
    for connections in CONNECTIONS:
        for other in ("mosec", "raw ASGI"):
            beside = next((each for each in taken if each.running.server.name == other), None)
            row[f"x_{other.split()[0]}_{connections}"] = "" if beside is None else _ratio(one, beside, connections)
    rated = ("rate", RATE)
    row |= {"p50_ms_1000": one.median(rated, lambda t: t.p50_ms), "p99_ms_1000": one.median(rated, lambda t: t.p99_ms)}
    for share in SHARES:
        trial = one.trials["share", share][0]
        row |= {f"p50_ms_at_{share:.0%}": trial.p50_ms, f"p99_ms_at_{share:.0%}": trial.p99_ms}
    every = [trial for trials in one.trials.values() for trial in trials]
    row |= {
        "cpu_us": one.median(("c", CONNECTIONS[0]), lambda t: t.cpu_us),
        "memory_mb": one.memory_mb,
        "ready_s": one.running.ready_s,
        "failed": float(sum(trial.failed for trial in every)),
        "client_busy": max(trial.client_busy for trial in every if trial.client_busy),
        "rounds": float(len(one.trials[rated])),
        "config": server.config,
    }
    return row


def _ratio(one: Taken, beside: Taken, connections: int) -> float:
    """Median over the rounds of the ratio within a round."""
    kind = ("c", connections)
    return statistics.median(
        mine.per_s / theirs.per_s for mine, theirs in zip(one.trials[kind], beside.trials[kind], strict=True)
    )


def _real(servers: Sequence[Server], options: ServeOptions, folder: Path, console: Console) -> list[Row]:
    """The real ranker behind the service, beside itself alone, in turns."""
    model = real_ranker.write_model_folder(folder / "real")
    bare: list[float] = []
    with ExitStack() as stack:
        taken = []
        for n, server in enumerate(servers):
            running = Running(
                server,
                folder / f"real-{n}",
                cores=options.server_cores,
                python=sys.executable,
                model=model,
                workers=WORKERS,
            )
            taken.append(Taken(stack.enter_context(running)))
            console.print(f"{server.name}: ready after {running.ready_s:.1f} s")
            running.pause()
        for turn in range(options.rounds):
            bare.append(bare_rate(model, options.server_cores, options.seconds))
            for one in taken:
                one.running.resume()
                _ask(one, connections=CONNECTIONS[0], seconds=options.seconds / 2, kind=None, options=options)
                for connections in CONNECTIONS:
                    _ask(one, connections=connections, kind=("c", connections), options=options, seed=turn)
                one.memory_mb = one.running.memory_mb()
                one.running.pause()
    return [_real_row(one, connections, bare, options) for one in taken for connections in CONNECTIONS]


def _real_row(one: Taken, connections: int, bare: Sequence[float], options: ServeOptions) -> Row:
    kind, server = ("c", connections), one.running.server
    trials = one.trials[kind]
    return {
        "server": server.name,
        "ranker": f"{real_ranker.CANDIDATES} candidates, {server.items} items",
        "connections": float(connections),
        "bare_per_s": statistics.median(bare),
        "ours_per_s": one.per_s(connections),
        "share": statistics.median(t.per_s / alone for t, alone in zip(trials, bare, strict=True)),
        "p50_ms": one.median(kind, lambda t: t.p50_ms),
        "p99_ms": one.median(kind, lambda t: t.p99_ms),
        "failed": float(sum(trial.failed for trial in trials)),
        "memory_mb": one.memory_mb,
        "rounds": float(options.rounds),
        "config": server.config,
    }


def version_of(server: Server, python: str) -> str:
    """Version of the package that serves: the peer's, else uvicorn's."""
    package = server.package or "uvicorn"
    code = f"from importlib.metadata import version; print(version({package!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return f"{package} {found.stdout.strip()}"
