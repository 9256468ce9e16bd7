"""The whole GPU run in one command: `python -m kernels.gpu.run --out FOLDER`, under eight minutes on one GPU.

1. The oracle tests of the kernels, on the device. While one is red, no speed is reported.
2. The sizes in use in bfloat16 against float64, and a captured graph that replays with other tokens, bit for bit.
3. Times: this layer and its rivals, calm and in a crowd, medians over replays that rotate inputs, with the counted
   floor and the time predicted beside them. One csv with device and versions.

`--dry` walks the same path in Triton's interpreter on tiny sizes and reports no times: it shows that the run works.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUDGET_S = 450.0
TOLERANCE, TOLERANCE_DRY = 5e-3, 1.2e-2  # the interpreter cuts bfloat16 where a GPU rounds
TOLERANCE_RIVALS = 2e-2  # they round more often; what matters is that they compute the same layer
COLUMNS = [
    *("shape", "tokens", "width", "hidden", "experts", "k", "routing", "form", "mode"),
    *("median_us", "p10_us", "p90_us", "predicted_us", "floor_us", "share_of_floor", "error", "status"),
    *("device", "torch", "triton"),
]


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    sys.stdout.write(f"[{time.monotonic() - STARTED:5.0f} s] {text}\n")
    sys.stdout.flush()


STARTED = time.monotonic()


def oracle_tests_pass(dry: bool) -> bool:
    """Run the cases of the kernels' tests where the kernels will run."""
    cases = "tests/kernels_gpu/cases"
    command = [sys.executable, "-m", "pytest", cases + ("/test_plan.py::test_no_tokens" if dry else ""), "-q", "-x"]
    command += ["-W", "default"]  # other versions warn of other things: only results count here
    if not dry and find_spec("xdist"):
        command += ["-n", "4"]  # what takes the time is compiling
    command += [f"--confcutdir={cases}", "-p", "no:cacheprovider"]
    environment = os.environ | ({} if dry else {"KERNELS_ON_GPU": "1"})
    return subprocess.run(command, cwd=ROOT, env=environment).returncode == 0


class Bench:
    """One layer on the device with several batches of tokens."""

    def __init__(self, name: str, shape: Any, routing: str, device: str) -> None:
        import torch

        self.name, self.shape, self.routing = name, shape, routing
        draws = torch.Generator().manual_seed(0)
        tokens, width, hidden, experts, self.k = shape

        def normal(*size: int, scale: float = 1.0) -> torch.Tensor:
            return (torch.randn(*size, generator=draws) * scale).to(device, torch.bfloat16)

        self.gate_DE = normal(width, experts, scale=width**-0.5)
        self.w_up, self.w_down = normal(experts, width, 2 * hidden, scale=width**-0.5), normal(
            experts, hidden, width, scale=hidden**-0.5
        )  # fmt: skip
        self.batches = [normal(tokens, width) for _ in range(4)]
        if routing == "crowd":  # half of the tokens come for one topic
            topic_D = normal(width)
            for x_TD in self.batches:
                x_TD[::2] = 0.3 * x_TD[::2] + topic_D

    def expected(self, x_TD: Any, ids_TK: Any, gates_TK: Any) -> Any:
        """Float64, expert by expert."""
        import torch

        from kernels import reference

        y_TD = torch.zeros(x_TD.shape, dtype=torch.float64, device=x_TD.device)
        for e in range(self.shape.experts):
            token_N, slot_N = (ids_TK == e).nonzero(as_tuple=True)
            y_ND = reference.swiglu(x_TD[token_N].double(), self.w_up[e].double(), self.w_down[e].double())
            y_TD.index_add_(0, token_N, y_ND * gates_TK[token_N, slot_N, None].double())
        return y_TD

    def ours(self) -> Iterator[tuple[str, Callable[[Any], Any], bool]]:
        """(name, run, whether nothing is dropped) of the forms of this project."""
        import torch

        from kernels.gpu import layer, tiles

        weights, shape = (self.gate_DE, self.w_up, self.w_down, self.k), self.shape
        even = -(-shape.slots // shape.experts)
        capacity_E = torch.full((shape.experts,), even, device=self.gate_DE.device)
        tiny = tiles.prefers_tiny(shape.tokens, shape.width, shape.hidden, shape.experts)
        yield "ours: one launch" if tiny else "ours: dropless", lambda x: layer.moe(x, *weights), True
        if tiny:  # a capacity that nobody reaches keeps to the separate kernels
            yield "ours: dropless", lambda x: layer.moe(x, *weights, capacity=shape.tokens), True
        yield "ours: capacity 1.0", lambda x: layer.moe(x, *weights, capacity=even), False
        yield "ours: balanced, 8 sweeps", lambda x: layer.balanced(x, *weights, capacity_E).y_TD, False

    def error_of_ours(self, run: Callable[[Any], Any]) -> float:
        """Relative norm error of a dropless form, for the routes that the kernel itself takes."""
        from kernels import ops
        from kernels.gpu.route import route

        x_TD = self.batches[0]
        routes = route(x_TD, self.gate_DE, self.k, keep_scores=True)
        ids_TK = routes.ids_TK.long()
        assert routes.scores_TE is not None
        expected = self.expected(x_TD, ids_TK, ops.normalised_gates(routes.scores_TE.double(), ids_TK))
        return float((run(x_TD).double() - expected).norm() / expected.norm())


def replay_is_right(bench: Bench, run: Callable[[Any], Any]) -> bool:
    """A captured graph, given other tokens in the same memory, gives the bits of a direct call."""
    import torch

    held_TD = bench.batches[0].clone()
    graph, result = captured(lambda: run(held_TD))
    for x_TD in bench.batches[1:]:
        held_TD.copy_(x_TD)
        graph.replay()
        torch.cuda.synchronize()
        if not torch.equal(result, run(x_TD)):
            return False
    return True


def captured(run: Callable[[], Any]) -> tuple[Any, Any]:
    """A CUDA graph of one call, and where its result appears."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph, result


def times_us(bench: Bench, run: Callable[[Any], Any], in_graph: bool) -> list[float]:
    """p10, median, p90 of one call, batches in turn; each sample is a run of calls between two events."""
    import torch

    calls: list[Callable[[], Any]] = [lambda x=x: run(x) for x in bench.batches]  # type: ignore[misc]
    for call in calls:
        call()
    if in_graph:
        calls = [captured(call)[0].replay for call in calls]
    samples: list[float] = []
    turns, until = 3, time.monotonic() + 0.8
    while len(samples) < 5 or (time.monotonic() < until and len(samples) < 60):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        for _ in range(turns):
            for call in calls:
                call()
        last.record()
        last.synchronize()
        samples.append(1e3 * first.elapsed_time(last) / (turns * len(calls)))
    samples.sort()
    return [samples[int(share * (len(samples) - 1))] for share in (0.1, 0.5, 0.9)]


def rows_of(bench: Bench, dry: bool) -> Iterator[dict[str, Any]]:
    """One row per form: error first, then, if that is right, times."""
    from kernels.gpu import rivals, roofline
    from kernels.gpu.rivals import torch_route

    def row(
        form: str, run: Callable[[Any], Any], in_graph: bool, error: float | None, tolerance: float
    ) -> dict[str, Any]:
        made: dict[str, Any] = {"form": form, "mode": "graph" if in_graph else "eager", "error": error, "status": "ok"}
        if error is not None and not error < tolerance:
            return made | {"status": "wrong result: no time reported"}
        if dry:
            run(bench.batches[0])
            return made | {"status": "dry run: no time reported"}
        p10, median, p90 = times_us(bench, run, in_graph)
        floor = roofline.floor_us(bench.shape)
        return made | {"p10_us": p10, "median_us": median, "p90_us": p90, "share_of_floor": floor / median}

    for form, run, dropless in bench.ours():
        error = bench.error_of_ours(run) if dropless else None
        yield row(form, run, True, error, TOLERANCE_DRY if dry else TOLERANCE)
    x_TD = bench.batches[0]
    ids_TK, gates_TK = torch_route(x_TD, bench.gate_DE, bench.k)
    expected = bench.expected(x_TD, ids_TK, gates_TK)
    most = max(int(torch_route(x, bench.gate_DE, bench.k)[0].flatten().bincount().max()) for x in bench.batches)
    for rival in rivals.installed():
        compiles = rival.name.startswith("torch.compile")
        if compiles and (dry or bench.routing == "crowd" or bench.name not in ("S2", "S3")):
            continue  # a minute of compilation each
        if time.monotonic() - STARTED > BUDGET_S:
            yield {"form": rival.name, "status": "left out: time budget spent"}
            continue
        try:
            experts = rival.make(bench.w_up, bench.w_down, most)

            def layer(x: Any, experts: Any = experts) -> Any:
                return experts(x, *torch_route(x, bench.gate_DE, bench.k))

            error = float((layer(x_TD).double() - expected).norm() / expected.norm())
            yield row(rival.name, layer, rival.in_graph, error, TOLERANCE_RIVALS)
        except Exception as reason:  # another project's code may fail in any way; the run goes on without it
            yield {"form": rival.name, "status": f"failed: {type(reason).__name__}: {str(reason)[:120]}"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("var/kernels_gpu"), help="folder of the csv")
    parser.add_argument("--dry", action="store_true", help="interpreter, tiny sizes, no times")
    arguments = parser.parse_args()
    dry = bool(arguments.dry)
    if dry:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported, here and in the tests' process
    import torch
    import triton

    from kernels.gpu import roofline
    from kernels.gpu.shapes import SHAPES, Shape

    if not dry and not torch.cuda.is_available():
        say("no CUDA device: nothing to measure (--dry walks through in the interpreter)")
        return 2
    say("oracle tests")
    if not oracle_tests_pass(dry):
        say("an oracle test is red: no speed is reported")
        return 1
    device = "cpu" if dry else "cuda"
    about = {"device": "interpreter" if dry else torch.cuda.get_device_name(), "torch": torch.__version__,
             "triton": triton.__version__}  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    path, wrong = arguments.out / "moe_layer.csv", 0
    with path.open("w", newline="") as file, torch.inference_mode():
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for name, shape in ({"dry": Shape(40, 16, 16, 4)} if dry else SHAPES).items():
            for routing in ("calm", "crowd"):
                bench = Bench(name, shape, routing, device)
                if not dry and not all(replay_is_right(bench, run) for _, run, _ in bench.ours()):
                    say(f"{name} {routing}: a replayed graph gives other bits than a call: no speed is reported")
                    return 1
                for found in rows_of(bench, dry):
                    own = found["form"].startswith("ours")
                    counted = {"floor_us": roofline.floor_us(shape)}
                    if found["form"] in ("ours: dropless", "ours: one launch"):
                        counted["predicted_us"] = roofline.predicted_us(shape)
                    table.writerow(shape._asdict() | {"shape": name, "routing": routing} | counted | found | about)
                    file.flush()
                    wrong += own and found["status"].startswith("wrong")
                    time_us = f"{found['median_us']:9.1f} us" if "median_us" in found else " " * 12
                    say(f"{name:<4}{routing:<6}{found['form']:<30}{time_us}  {found['status']}")
    say(f"{path}: {'some of our forms are WRONG' if wrong else 'done'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
