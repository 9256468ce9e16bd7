"""`recsys bench moe`: the whole MoE layer on a CPU, ours and rivals in turn, in calm and in a crowd, by threads.

Each number of threads has a process of its own, because threads must be told not to spin before torch is loaded.
A process first holds every form to the float64 definition, and nothing is reported where one fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from kernels.cpu import library
from recsys.bench.commands import add_to_csv
from recsys.bench.machine import machine
from recsys.bench.moe_plots import plot_roofline
from recsys.bench.moe_report import tables
from recsys.bench.moe_shapes import Case, cases
from recsys.errors import InputError

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeBench:
    """What is run.

    Attributes:
        cases: sizes.
        threads: of each process.
        dtypes: of tokens and weights.
        seconds: of each form of each size, stream, type and number of threads.
    """

    cases: tuple[Case, ...]
    threads: tuple[int, ...] = (1, 2, 4)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    seconds: float = 0.25

    @staticmethod
    def of(*, quick: bool, threads: tuple[int, ...]) -> MoeBench:
        """All sizes; `quick` has three of them for a moment each, for a look and for tests, no figures to quote.

        Raises:
            InputError: a number of threads below 1.
        """
        if not threads or min(threads) < 1:
            raise InputError(f"threads must be numbers from 1, not {threads}", field="threads")
        chosen = tuple(cases(quick=quick))
        return (
            MoeBench(cases=chosen, threads=threads, seconds=0.02) if quick else MoeBench(cases=chosen, threads=threads)
        )


def run_and_report(options: MoeBench, out: Path, images: Path, *, console: Console) -> list[Row]:
    """Run, print the tables, write the csv and the picture; returns the rows.

    Raises:
        InputError: a form computes something else than its definition, or a process fails.
    """
    try:
        library.build()
    except RuntimeError as error:
        console.print(f"torch alone: {error}")
    rows, missing = run(options)
    add_to_csv(rows, out, replace=True)
    plot_roofline(rows, images / "moe-cpu-roofline.png")
    for table in tables(rows):
        console.print(table)
    for line in missing:
        console.print(f"not run: {line}", style="dim", highlight=False)
    console.print("  ".join(f"{name} {value}" for name, value in machine().items()), style="dim", highlight=False)
    return rows


def run(options: MoeBench) -> tuple[list[Row], list[str]]:
    """Rows of all processes, and what could not be run."""
    rows: list[Row] = []
    missing: dict[str, None] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        steps = len(options.threads) * len(options.dtypes) * len(options.cases)
        bar = progress.add_task("MoE layers", total=steps)
        for threads in options.threads:
            for message in _messages(options, threads):
                if "row" in message:
                    rows.append(message["row"])
                elif "missing" in message:
                    missing[message["missing"]] = None
                else:
                    progress.update(bar, advance=message["done"], description=message["step"])
    return rows, list(missing)


def _messages(options: MoeBench, threads: int) -> Iterator[dict[str, Any]]:
    """What a process with so many threads tells."""
    told = {"cases": [asdict(case) for case in options.cases], "dtypes": options.dtypes, "seconds": options.seconds}
    environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "TORCHINDUCTOR_MAX_AUTOTUNE": "0"}
    command = [sys.executable, "-m", "recsys.bench.moe_worker", json.dumps(told)]
    with (
        tempfile.TemporaryFile("w+") as stderr,  # a pipe that nobody reads would fill up and stop the worker
        subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as worker,
    ):
        assert worker.stdout is not None
        try:
            for line in worker.stdout:
                yield json.loads(line)
        except BaseException:
            worker.kill()
            raise
        worker.wait()
        stderr.seek(0)
        complaints = stderr.read().strip()
    if worker.returncode:
        raise InputError(f"no speed is reported: {complaints.splitlines()[-1] if complaints else 'it died'}")
