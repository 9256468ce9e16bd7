"""Times MoE layers in a process of its own, whose threads are set before torch is there: one line of JSON per message.

`python -m recsys.bench.moe_worker '{"cases": [...], "dtypes": [...], "seconds": 1.0}'`
"""

from __future__ import annotations

import json
import sys
import time
from importlib import metadata
from importlib.util import find_spec
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from kernels.cpu import library
from recsys.bench.moe_forms import GROUPED, OURS, TORCH_FORMS, Form, Weights, forms
from recsys.bench.moe_oracle import check_layer, check_oracle
from recsys.bench.moe_shapes import Case
from router.gates import TopicGates

BATCHES = 4
LEAST_ROUNDS, MOST_ROUNDS = 5, 400
STREAMS: dict[str, int | None] = {"calm": None, "crowd": 0}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def work(cases: list[Case], dtypes: list[str], seconds: float) -> None:
    """Check, then measure each case in each type, telling of every step."""
    torch.set_grad_enabled(False)
    check_oracle()
    for name in dtypes:
        ceilings = Ceilings.measured(TYPES[name], large=seconds > 0.1)
        for case in cases:
            step = f"{torch.get_num_threads()} threads, {name}, {case.name}"
            _tell(step=step, done=0)
            _measure(case, name, ceilings, seconds)
            _tell(step=step, done=1)


class Ceilings:
    """What this machine does at best with this many threads: large product, registers alone, large copy."""

    def __init__(self, mm: float, peak: float, bandwidth: float) -> None:
        self.mm, self.peak, self.bandwidth = mm, peak, bandwidth

    @staticmethod
    def measured(dtype: torch.dtype, *, large: bool) -> Ceilings:
        """FLOP/s and bytes/s; where nothing compiled can tell the peak, the product stands for it."""
        n = 2048 if large else 512
        a, b, out = (torch.randn(n, n).to(dtype) for _ in range(3))
        mm = 2 * n**3 / _best(lambda: torch.mm(a, b, out=out))
        peak = library.peak_flops(dtype) if library.serves(a) else mm
        big, copy = torch.empty(2, 1 << (26 if large else 22)).unbind()  # beyond every cache
        return Ceilings(mm, max(mm, peak), 2 * 4 * big.numel() / _best(lambda: copy.copy_(big)))


def _best(run: Any, rounds: int = 7) -> float:
    run()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def inputs(case: Case, dtype: torch.dtype) -> tuple[Weights, dict[str, list[Tensor]]]:
    """Weights, and batches of tokens whose gate scores are those of topics, in calm and in a crowd.

    The gate is orthonormal, so that a token can be given the logits that its topic wants: noise outside the gate's
    columns, the logits inside.
    """
    draws = torch.Generator().manual_seed(0)
    gate_DE = torch.linalg.qr(torch.randn(case.width, case.experts, generator=draws)).Q
    gates = TopicGates(case.experts, seed=0)
    batches: dict[str, list[Tensor]] = {}
    for stream, topic in STREAMS.items():
        batches[stream] = []
        for seed in range(BATCHES):
            logits_TE = gates.draw(case.tokens, seed=seed, hot_topic=topic).log()
            noise_TD = torch.randn(case.tokens, case.width, generator=draws)
            x_TD = noise_TD + (logits_TE - logits_TE.mean(1, keepdim=True) - noise_TD @ gate_DE) @ gate_DE.T
            batches[stream].append(x_TD.to(dtype))
    up = torch.randn(case.experts, case.width, 2 * case.hidden, generator=draws) / case.width**0.5
    down = torch.randn(case.experts, case.hidden, case.width, generator=draws) / case.hidden**0.5
    return Weights(gate_DE.to(dtype), up.to(dtype), down.to(dtype), case.k), batches


def _measure(case: Case, dtype: str, ceilings: Ceilings, seconds: float) -> None:
    weights, batches = inputs(case, TYPES[dtype])
    made: dict[tuple[str, str], Form] = {}
    for stream in STREAMS:  # price routing remembers its stream
        there, missing = forms(weights, with_compile=case.with_compile)
        made |= {(stream, name): form for name, form in there.items()}
    for name, reason in missing.items():
        _tell(missing=f"{name}, {dtype}: {reason}")
    for (stream, name), form in made.items():
        x_TD, label = batches[stream][0], f"{name}, {case.name}, {dtype}, {stream}"
        y_TD = form.run(x_TD)
        check_layer(y_TD, x_TD, *form.routing(x_TD), weights.up_ED2H, weights.down_EHD, label, name in OURS)
        for x_TD in batches[stream]:  # compilers and workspaces see every batch once before the clock runs
            form.run(x_TD)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in made}
    end, turn = time.perf_counter() + seconds * len(made), 0
    while turn < LEAST_ROUNDS or (time.perf_counter() < end and turn < MOST_ROUNDS):
        for stream, name in made:
            began = time.perf_counter()
            made[stream, name].run(batches[stream][turn % BATCHES])
            times[stream, name].append(time.perf_counter() - began)
        turn += 1
    floor_s = max(case.flops / ceilings.peak, case.least_bytes(TYPES[dtype].itemsize) / ceilings.bandwidth)
    for (stream, name), taken in times.items():
        rivals = [times[stream, rival] for rival in TORCH_FORMS if (stream, rival) in times]
        best = min(rivals, key=median)
        tenths = quantiles(taken, n=10, method="inclusive")
        _tell(
            row={
                **case.facts(),
                "dtype": dtype,
                "threads": torch.get_num_threads(),
                "stream": stream,
                "form": name,
                "us": 1e6 * median(taken),
                "us_p10": 1e6 * tenths[0],
                "us_p90": 1e6 * tenths[-1],
                "rounds": turn,
                "times_best_torch": _ratio(best, taken),
                "times_grouped_mm": _ratio(times[stream, GROUPED], taken),
                "crowd_over_calm": _ratio(times["crowd", name], times["calm", name]),
                "gflops": case.flops / median(taken) / 1e9,
                "share_of_mm": case.flops / median(taken) / ceilings.mm,
                "share_of_floor": floor_s / median(taken),
                "mm_gflops": ceilings.mm / 1e9,
                "peak_gflops": ceilings.peak / 1e9,
                "copy_gb_per_s": ceilings.bandwidth / 1e9,
                "compiled_kernels": str(library.serves(weights.up_ED2H)),
                "onnxruntime": metadata.version("onnxruntime") if find_spec("onnxruntime") else "",
            }
        )


def _ratio(over: list[float], under: list[float]) -> float:
    """Median of ratios inside a round: other work on the machine slows both sides."""
    return median(a / b for a, b in zip(over, under, strict=True))


def _tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)  # noqa: T201


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    work([Case(**case) for case in options["cases"]], options["dtypes"], options["seconds"])
