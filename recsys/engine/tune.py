"""`recsys tune`: how many engines with how many threads, and how large a micro-batch, on this machine with this model.

Every layout that fits the cores runs as real processes at once, each ranking as fast as it can, since what threads cost
each other shows only then. One core is left for API, worker and Redis. With GPUs there is one layout, an engine for
each, and what is chosen is the size of a micro-batch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import track
from rich.table import Table

from recsys.config import EngineSettings
from recsys.errors import InputError, UnavailableError

BATCHES = (1, 2, 4, 8, 16, 32)
BATCHES_CUDA = (1, 4, 16, 32, 64, 128)
LEVEL = 0.95  # a layout this close to the best is as good: then fewer processes, fewer threads and smaller batches win


@dataclass(frozen=True, slots=True, order=True)
class Layout:
    """So many engine processes with so many intra-op threads each, or one for each of so many GPUs."""

    engines: int
    threads: int
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Tried:
    """One layout at one size of micro-batch; requests per second of all engines, times of a step."""

    layout: Layout
    batch: int
    per_s: float
    p50_ms: float
    p99_ms: float


class _Timed(msgspec.Struct):
    per_s: float
    p50_ms: float
    p99_ms: float


def gpus(device: str) -> list[str]:
    """Names of the GPUs that engines may use, as `CUDA_VISIBLE_DEVICES` has them; `device` is that of the settings."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return []
    told = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    count = torch.cuda.device_count()
    return told[:count] if told != [""] else [str(n) for n in range(count)]


def layouts(cores: int, gpus: int = 0) -> list[Layout]:
    """All that leave a core free, or the smallest one; with GPUs an engine for each."""
    if gpus:
        return [Layout(gpus, 1, "cuda")]
    free = max(1, cores - 1)
    powers = [1 << power for power in range(free.bit_length())]
    counts = sorted({*powers, free})
    return [Layout(engines, threads) for threads in powers for engines in counts if engines * threads <= free]


def best(tried: Sequence[Tried], *, wait_max_ms: float) -> Tried:
    """The one to serve with: the highest rate among those whose step takes at most half of the allowed delay.

    Where no step is that short, the shortest.
    """
    short = [one for one in tried if one.p50_ms <= wait_max_ms / 2] or [min(tried, key=lambda one: one.p50_ms)]
    most = max(one.per_s for one in short)
    return min(
        (one for one in short if one.per_s >= LEVEL * most),
        key=lambda one: (one.layout.engines, one.layout.threads, one.batch),
    )


def measure(model: Path, found: Sequence[Layout], config: EngineSettings, *, seconds: float) -> list[Tried]:
    """Run every layout at every size.

    Raises:
        InputError: no model there. UnavailableError: a process ended; the message holds what it said.
    """
    if not (model / "config.json").is_file():
        raise InputError(f"{model}: no model folder", field="model")
    tried = []
    for layout in track(found, "Layouts", console=Console(stderr=True), transient=True):
        with ExitStack() as running:
            visible = gpus(config.device) if layout.device == "cuda" else [""] * layout.engines
            workers = [running.enter_context(_Worker(model, layout, gpu, config.candidates)) for gpu in visible]
            for worker in workers:
                worker.expect_ready()
            for batch in BATCHES_CUDA if layout.device == "cuda" else BATCHES:
                for worker in workers:
                    worker.ask(batch, seconds)
                timed = [worker.answer() for worker in workers]
                tried.append(
                    Tried(
                        layout,
                        batch,
                        sum(one.per_s for one in timed),
                        max(one.p50_ms for one in timed),
                        max(one.p99_ms for one in timed),
                    )
                )
    return tried


class _Worker:
    """A process of `tune_worker`, which sees one GPU or none; a context manager that ends it."""

    def __init__(self, model: Path, layout: Layout, gpu: str, candidates: int) -> None:
        told = (model, layout.threads, candidates, layout.device)
        command = [sys.executable, "-m", "recsys.engine.tune_worker", *map(str, told)]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(layout.threads)}
        environment["CUDA_VISIBLE_DEVICES"] = gpu
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def expect_ready(self) -> None:
        self._line()

    def ask(self, batch: int, seconds: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{batch} {seconds}\n")
        self._process.stdin.flush()

    def answer(self) -> _Timed:
        return msgspec.json.decode(self._line(), type=_Timed)

    def _line(self) -> str:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._process.stderr.read().strip().splitlines()
            raise UnavailableError(f"a measuring process ended: {said[-1] if said else 'without a word'}")
        return line


def as_env(chosen: Tried, *, cores: int, model: Path) -> str:
    """The settings as a file of `NAME=value`, which a shell, systemd and Compose read."""
    layout = chosen.layout
    on_gpus = (
        "# each with a GPU of its own: CUDA_VISIBLE_DEVICES=0 for the first, 1 for the second, ...\n"
        "RECSYS_ENGINE__DEVICE=cuda\n"
    )
    start_all = "" if layout.device == "cuda" else f" (recsys demo --engines {layout.engines})"
    return (
        f"# recsys tune: {cores} cores, model {model.name}, {chosen.per_s:.0f} requests/s in steps of"
        f" {chosen.p50_ms:.1f} ms\n"
        f"# engines to start: {layout.engines}{start_all}\n"
        f"{on_gpus if layout.device == 'cuda' else ''}"
        "OMP_WAIT_POLICY=PASSIVE\n"
        f"RECSYS_ENGINE__THREADS={layout.threads}\n"
        f"RECSYS_ENGINE__BATCH_MAX={chosen.batch}\n"
    )


def show(tried: Sequence[Tried], chosen: Tried, console: Console) -> None:
    """A row per layout and size, the chosen one marked."""
    table = Table(title="recsys tune")
    for name in ("engines", "threads", "batch", "requests/s", "step p50, ms", "step p99, ms", ""):
        table.add_column(name, justify="right")
    for one in tried:
        values = (one.layout.engines, one.layout.threads, one.batch)
        times = (f"{one.per_s:.0f}", f"{one.p50_ms:.1f}", f"{one.p99_ms:.1f}")
        table.add_row(*map(str, values), *times, "<-" if one is chosen else "")
    console.print(table)
