"""Where the GPU run runs: a CUDA device, or Triton's interpreter, which walks the same path and measures nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]


class CudaDevice:
    """The device with its clock and its graphs."""

    measures = True
    torch_name = "cuda"
    batches, turns = 4, 4

    def __init__(self) -> None:
        self.name = torch.cuda.get_device_name()

    def capture(self, calls: Sequence[Call]) -> tuple[Call, list[Any]]:
        """One CUDA graph of all calls: how to replay it, and where the results appear."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles, fills caches and workspaces: none of it may happen in a capture
                for call in calls:
                    call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = [call() for call in calls]
        return graph.replay, results

    def elapsed_us(self, call: Call) -> float:
        """Time between two events around the call."""
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        call()
        last.record()
        last.synchronize()
        return 1e3 * float(first.elapsed_time(last))

    def peaks(self) -> tuple[float, float]:
        """FLOP/s of a large bfloat16 product of random numbers, and bytes/s read and written by a large copy."""
        a, b = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
        source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
        target = torch.empty_like(source)
        product = min(self.elapsed_us(lambda: a @ b) for _ in range(12))
        copy = min(self.elapsed_us(lambda: target.copy_(source)) for _ in range(12))
        return 2.0 * 8192**3 / (1e-6 * product), 2.0 * source.numel() / (1e-6 * copy)

    def check(self) -> None:
        """Raise what a kernel did wrong since the last check."""
        torch.cuda.synchronize()


class Interpreter:
    """No device: calls run at once, a graph is a list of calls, and the clock is one nobody should read."""

    measures = False
    torch_name = "cpu"
    batches, turns = 2, 1
    name = "interpreter"

    def capture(self, calls: Sequence[Call]) -> tuple[Call, list[Any]]:
        results: list[Tensor] = [call() for call in calls]

        def replay() -> None:
            for result, call in zip(results, calls, strict=True):
                result.copy_(call())

        return replay, results

    def elapsed_us(self, call: Call) -> float:
        start = time.perf_counter()
        call()
        return 1e6 * (time.perf_counter() - start)

    def peaks(self) -> tuple[float, float]:
        return 1e12, 1e11

    def check(self) -> None:
        pass
