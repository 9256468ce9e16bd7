"""The whole GPU run in one command: `python -m kernels.gpu.run --out FOLDER`, under eight minutes on one GPU.

1. Predictions are written. Then the oracle tests of the kernels run on the device; of what is red no speed is reported.
2. Each form in bfloat16 against float64, and in a captured graph that replays with other tokens, bit for bit.
3. Times: this layer and its rivals, calm and in a crowd, medians over replays that rotate inputs, beside the counted
   floor and the prediction: csv with device and versions, table in markdown, picture. A child process does it: where a
   kernel hangs or breaks the device, the rows so far stay and another child goes on with the next shape.

`--interpret` walks the same path in Triton's interpreter on tiny sizes and reports no times: it shows that the run
works. It needs torch, triton, pytest, hypothesis and scipy, and takes matplotlib where it is installed.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:  # triton is imported after --interpret is known
    from kernels.gpu.bench import Bench, Form
    from kernels.gpu.machine import CudaDevice, Interpreter
    from kernels.gpu.shapes import Shape

ROOT = Path(__file__).resolve().parents[2]
CASES = "tests/kernels_gpu/cases"
ORACLES = {
    "layer": [f"{CASES}/test_{name}.py" for name in ("route", "plan", "experts", "ops", "layer")]
    + ["-k", "not balanced"],
    "balanced": [f"{CASES}/test_{name}.py" for name in ("prices", "assign", "layer")]
    + ["-k", "balanced or prices or assign"],
    "step": [f"{CASES}/test_static_step.py"],  # the whole step of an engine, of these kernels and torch
}
ORACLES_S = 180.0
BUDGET_S = 420.0
SILENT_S = 150.0  # a form takes less, the compilation of a rival included
TOLERANCE, TOLERANCE_INTERPRETED = 5e-3, 1.2e-2  # the interpreter cuts bfloat16 where a GPU rounds
TOLERANCE_RIVALS = 2e-2  # they round more often; what matters is that they compute the same layer
STARTED = time.monotonic()

Whose = Literal["ours", "rivals"]
WHOSE: tuple[Whose, ...] = ("ours", "rivals")


class Section(NamedTuple):
    """What a child process measures in one go: a shape, "calm" or "crowd", and whose forms."""

    shape: str
    routing: str
    whose: Whose


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    sys.stdout.write(f"[{time.monotonic() - STARTED:5.0f} s] {text}\n")
    sys.stdout.flush()


def red_oracles(interpret: bool, out: Path) -> set[str]:
    """Run the cases of the kernels' tests where the kernels will run; which of `ORACLES` fail or do not end."""
    running = {}
    for name, chosen in ORACLES.items():
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--maxfail=5", "-p", "no:cacheprovider"]
        command += ["-W", "default", f"--confcutdir={CASES}"]  # other versions warn of other things: results count
        if interpret:
            chosen = [f"{CASES}/{FAST[name]}"]
        elif find_spec("xdist"):
            command += ["-n", "6"]  # what takes the time is compiling
        environment = os.environ | ({"OMP_NUM_THREADS": "1"} if interpret else {"KERNELS_ON_GPU": "1"})
        log = (out / f"oracle-{name}.log").open("w+")
        started = subprocess.Popen([*command, *chosen], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
                                   start_new_session=True)  # fmt: skip
        running[name] = started, log
    red, until = set(), time.monotonic() + ORACLES_S
    for name, (process, log) in running.items():
        try:
            status: int | str = process.wait(max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:  # its workers too, and with them a kernel that waits for ever
            os.killpg(process.pid, signal.SIGKILL)
            status = f"not ended after {ORACLES_S:.0f} s"
        log.seek(0)
        lines = log.read().splitlines()
        log.close()
        say(f"oracle tests, {name}: {lines[-1] if lines else ''} ({'green' if status == 0 else f'RED: {status}'})")
        if status != 0:
            red.add(name)
            sys.stdout.write("\n".join(lines[-60:]) + "\n")
    return red


FAST = {
    "layer": "test_plan.py::test_no_tokens",
    "balanced": "test_assign.py::test_more_experts_than_bits_are_refused",
    "step": "test_static_step.py::test_the_longest_unused_shape_goes",
}


def replay_is_right(bench: Bench, form: Form, machine: CudaDevice | Interpreter) -> bool:
    """A captured graph, given other tokens in the same memory, gives the bits of a direct call."""
    import torch

    held_TD = bench.batches[0].clone()
    replay, (result,) = machine.capture([lambda: form.run(held_TD)])
    for x_TD in bench.batches[1:]:
        held_TD.copy_(x_TD)
        replay()
        machine.check()
        if not torch.equal(result, form.run(x_TD)):
            return False
    return True


def times_us(
    bench: Bench, run: Callable[[Any], Any], machine: CudaDevice | Interpreter, in_graph: bool
) -> tuple[float, ...]:
    """p10, median, p90 of one call. A sample is several turns of all batches, in one graph where the form allows it."""
    calls = [partial(run, x) for x in bench.batches] * machine.turns

    def one_by_one() -> None:
        for call in calls:
            call()

    sample = machine.capture(calls)[0] if in_graph else one_by_one
    samples = [machine.elapsed_us(sample)]
    if machine.measures:  # that first one was to warm up
        samples, until = [], time.monotonic() + 0.6
        while len(samples) < 5 or (time.monotonic() < until and len(samples) < 60):
            samples.append(machine.elapsed_us(sample) / len(calls))
    samples.sort()
    return tuple(samples[int(share * (len(samples) - 1))] for share in (0.1, 0.5, 0.9))


def timed(bench: Bench, form: str, run: Callable[[Any], Any], machine: CudaDevice | Interpreter, in_graph: bool,
          peaks: tuple[float, float]) -> dict[str, Any]:  # fmt: skip
    """The numbers of a form that is known to be right."""
    from kernels.gpu import roofline

    p10, median, p90 = times_us(bench, run, machine, in_graph)
    made: dict[str, Any] = {"form": form, "mode": "graph" if in_graph else "eager"}
    if not machine.measures:
        return made | {"status": "interpreter: no time reported"}
    share = roofline.floor_us(bench.shape, *peaks) / median
    return made | {"p10_us": p10, "median_us": median, "p90_us": p90, "share_of_floor": share, "status": "ok"}


def rows_of_ours(
    bench: Bench, machine: CudaDevice | Interpreter, peaks: tuple[float, float], red: set[str]
) -> Iterator[dict[str, Any]]:
    """One row per form of ours: error first, then the replay, and, if both are right, times."""
    from kernels.gpu import roofline

    for form in bench.forms():
        row: dict[str, Any] = {"form": form.name}
        if form.slots != "first":
            row["predicted_us"] = (roofline.balanced_us if form.slots == "balanced" else roofline.predicted_us)(
                bench.shape
            )
        if ("balanced" if form.slots == "balanced" else "layer") in red:
            yield row | {"status": "wrong: oracle tests are red, no time reported"}
            continue
        try:
            row["error"], row["gap"] = bench.error(form)
            if not row["error"] < (TOLERANCE if machine.measures else TOLERANCE_INTERPRETED):
                yield row | {"status": "wrong result: no time reported"}
            elif not replay_is_right(bench, form, machine):
                yield row | {"status": "wrong: a replayed graph gives other bits than a call, no time reported"}
            else:
                yield row | timed(bench, form.name, form.run, machine, True, peaks)
        except Exception as reason:  # what one form cannot do must not cost the others their numbers
            yield row | {"status": f"wrong: {type(reason).__name__}: {str(reason)[:200]}"}
            machine.check()  # a device that is broken for good takes the process along


def rows_of_rivals(
    bench: Bench, machine: CudaDevice | Interpreter, peaks: tuple[float, float], until_s: float
) -> Iterator[dict[str, Any]]:
    """One row per rival that is installed here, as long as there is time."""
    from kernels.gpu import rivals

    x_TD = bench.batches[0]
    ids_TK, gates_TK = rivals.torch_route(x_TD, bench.gate_DE, bench.k)
    expected = bench.expected(x_TD, ids_TK, gates_TK)
    loads = [rivals.torch_route(x, bench.gate_DE, bench.k)[0].flatten().bincount().max() for x in bench.batches]
    most = max(int(load) for load in loads)
    for rival in rivals.installed():
        if rival.name.startswith("torch.compile") and (
            not machine.measures or bench.routing == "crowd" or bench.name not in ("S2", "S3")
        ):
            continue  # a minute of compilation each
        if machine.measures and time.monotonic() > until_s:
            yield {"form": rival.name, "status": "left out: time budget spent"}
            continue
        try:
            experts = rival.make(bench.w_up, bench.w_down, most)

            def run(x: Any, experts: Any = experts) -> Any:
                return experts(x, *rivals.torch_route(x, bench.gate_DE, bench.k))

            error = float((run(x_TD).double() - expected).norm() / expected.norm())
            if not error < TOLERANCE_RIVALS:
                yield {"form": rival.name, "error": error, "status": "other result: no time reported"}
                continue
            yield {"error": error} | timed(bench, rival.name, run, machine, rival.in_graph, peaks)
        except Exception as reason:  # another project's code may fail in any way; the run goes on without it
            yield {"form": rival.name, "status": f"failed: {type(reason).__name__}: {str(reason)[:120]}"}
            machine.check()


@cache
def machine_of(interpret: bool) -> tuple[CudaDevice | Interpreter, tuple[float, float]]:
    """Where this process measures, and what it can do at most."""
    import torch

    from kernels.gpu.machine import CudaDevice, Interpreter

    if interpret:
        torch.set_num_threads(1)
    machine = Interpreter() if interpret else CudaDevice()
    return machine, machine.peaks()


def shapes_of(interpret: bool) -> dict[str, Shape]:
    """What is measured."""
    from kernels.gpu.shapes import SHAPES, Shape

    return {"tiny": Shape(24, 16, 16, 4)} if interpret else SHAPES


def rows_of(section: Section, interpret: bool, red: set[str], until_s: float) -> Iterator[dict[str, Any]]:
    """All of a section, in the child process."""
    import torch

    from kernels.gpu import roofline
    from kernels.gpu.bench import Bench

    machine, peaks = machine_of(interpret)
    shape = shapes_of(interpret)[section.shape]
    with torch.inference_mode():
        bench = Bench(section.shape, shape, section.routing, machine)
        ours = section.whose == "ours"
        for row in rows_of_ours(bench, machine, peaks, red) if ours else rows_of_rivals(bench, machine, peaks, until_s):
            yield {"floor_us": roofline.floor_us(shape, *peaks)} | row


def measure(out: Path, interpret: bool, red: set[str], about: dict[str, str]) -> list[dict[str, Any]]:
    """Every shape, calm and in a crowd, ours first; each row is on disk as soon as it is known."""
    from kernels.gpu import report, roofline
    from kernels.gpu.watched import watched

    shapes, rows = shapes_of(interpret), list[dict[str, Any]]()
    routings = ("crowd",) if interpret else ("calm", "crowd")
    sections = [Section(shape, how, whose) for shape in shapes for how in routings for whose in WHOSE]
    work = partial(rows_of, interpret=interpret, red=red, until_s=STARTED + BUDGET_S)
    with (out / "moe_layer.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, report.COLUMNS)
        table.writeheader()
        for section, found in watched(work, sections, silent_s=SILENT_S):
            shape = shapes[section.shape]
            if isinstance(found, str):
                verdict = "wrong" if section.whose == "ours" else "failed"
                found = {"form": f"{section.whose}: the rest", "status": f"{verdict}: {found}",
                         "floor_us": roofline.floor_us(shape)}  # fmt: skip
            row = shape._asdict() | {"shape": section.shape, "routing": section.routing} | found | about
            table.writerow(row)
            file.flush()
            rows.append(row)
            time_us = f"{row['median_us']:9.1f} us" if "median_us" in row else " " * 12
            say(f"{section.shape:<5}{section.routing:<6}{row['form']:<29}{time_us}  {row['status']}")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("var/kernels_gpu"), help="folder of csv, table and picture")
    parser.add_argument("--interpret", action="store_true", help="Triton's interpreter, tiny sizes, no times")
    options = parser.parse_args(arguments)
    interpret, out = bool(options.interpret), Path(options.out)
    if interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported, here and in the tests' process
    import torch
    import triton

    if not interpret and not torch.cuda.is_available():
        say("no CUDA device: nothing to measure (--interpret walks through in the interpreter)")
        return 2
    from kernels.gpu import report
    from kernels.gpu.shapes import SHAPES

    out.mkdir(parents=True, exist_ok=True)
    report.write_predictions(out / "predictions.csv", SHAPES)
    red = red_oracles(interpret, out)
    about = {
        "device": "interpreter" if interpret else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }
    rows = measure(out, interpret, red, about) if "layer" not in red else []
    title = ", ".join(f"{name} {text}" for name, text in about.items())
    table = report.markdown(rows, title)
    (out / "moe_layer.md").write_text(table)
    drawn = report.draw(rows, out / "roofline.png", title)
    sys.stdout.write(table)
    wrong = bool(red) or any(row["status"].startswith("wrong") for row in rows)
    say(f"{out}: {'something of ours is WRONG' if wrong else 'done'}{'' if drawn else ', no picture'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
