"""What each kernel takes of an H100, by compiling it for sm_90. Needs triton, but no GPU and no memory.

`python -m kernels.gpu.resources` prints the table. The launchers themselves run, on tensors without storage, so that
what is compiled is what a GPU would be given: a driver that only names its target stands in for the real one, and
every launch ends after the compilation.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from kernels.gpu import layer, tiles
from kernels.gpu.assign import MOST_EXPERTS
from kernels.gpu.shapes import SHAPES, Shape
from kernels.gpu.tiny import tiny

SHARED_BYTES = 227 * 1024
"""Shared memory that one block may have on an H100."""


class Usage(NamedTuple):
    """One compiled kernel: registers and stack bytes (spills stand there) of a thread, shared memory of a block, and
    whether it uses the tensor cores by `wgmma`."""

    kernel: str
    blocks: int
    warps: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    wgmma: bool


class _NamesItsTarget:
    """As much of a Triton driver as compiling takes."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return -90  # a device of its own, so that a real one is never handed these kernels

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiled_only() -> Iterator[list[tuple[str, tuple[int, ...], Any]]]:
    """Within it, launches compile for sm_90 and do not run; yields (kernel name, grid, compiled kernel) of each."""
    launched: list[tuple[str, tuple[int, ...], Any]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        launched.append((self.__name__.lstrip("_"), grid, kernel))
        return kernel

    with mock.patch.object(driver, "_active", _NamesItsTarget()), mock.patch.object(JITFunction, "run", compile_only):
        yield launched


def registers_and_stack(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack, where spills stand."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", report)
    assert found, report
    return int(found[1]), int(found[2])


def usage_of(shape: Shape, dtype: torch.dtype) -> list[Usage]:
    """Every kernel that the layer launches for this shape: with capacity, balanced, and `tiny` where preferred."""
    tokens, width, hidden, experts, k = shape
    with compiled_only() as launched, torch.device("meta"):
        x_TD, gate_DE = torch.empty(tokens, width, dtype=dtype), torch.empty(width, experts, dtype=dtype)
        weights = torch.empty(experts, width, 2 * hidden, dtype=dtype), torch.empty(experts, hidden, width, dtype=dtype)
        layer.moe(x_TD, gate_DE, *weights, k, capacity=tokens)
        if experts <= MOST_EXPERTS:
            layer.balanced(x_TD, gate_DE, *weights, k, torch.empty(experts, dtype=torch.int64))
        if tiles.prefers_tiny(tokens, width, hidden, experts):
            tiny(x_TD, gate_DE, *weights, k)
    found = {}
    for name, grid, kernel in launched:
        if kernel.hash not in found:
            numbers = kernel.metadata.num_warps, *registers_and_stack(kernel.asm["cubin"]), kernel.metadata.shared
            found[kernel.hash] = Usage(name, prod(grid), *numbers, "wgmma" in kernel.asm["ptx"])
    return list(found.values())


def main() -> None:
    """Print the table of all shapes in bfloat16."""
    line = "{:<4} {:<9} {:>7} {:>6} {:>10} {:>11} {:>11} {}\n"
    sys.stdout.write(line.format("", "kernel", "blocks", "warps", "registers", "stack bytes", "shared KiB", "wgmma"))
    for name, shape in SHAPES.items():
        for use in usage_of(shape, torch.bfloat16):
            sizes = use.registers, use.stack_bytes, f"{use.shared_bytes / 1024:.1f}"
            sys.stdout.write(line.format(name, use.kernel, use.blocks, use.warps, *sizes, "yes" if use.wgmma else ""))


if __name__ == "__main__":
    main()
