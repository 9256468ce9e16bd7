"""Every kernel compiled for sm_90 as its launcher launches it: registers, shared memory, no spills. Needs no GPU."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed here")

from kernels.gpu import layer, tiles
from kernels.gpu.resources import SHARED_BYTES, Usage, compiled_only, registers_and_stack, usage_of
from kernels.gpu.shapes import SHAPES, Shape


def kernels_named(uses: list[Usage]) -> set[str]:
    return {use.kernel for use in uses}


@pytest.mark.parametrize("name", ["S1", "S2", "S3", "S4", "S5", "S6"])
def test_bfloat16_fits_without_spills(name: str) -> None:
    shape = SHAPES[name]
    uses = usage_of(shape, torch.bfloat16)
    for use in uses:
        assert use.stack_bytes == 0, use
        assert use.shared_bytes <= SHARED_BYTES, use
        assert use.registers * use.warps * 32 <= 65536, use
    expected = {"route", "plan", "combine", "prices", "assign"}
    expected |= {"experts"} if tiles.fused_serves(shape.width, torch.bfloat16) else {"up", "down"}
    assert kernels_named(uses) == expected | ({"tiny"} if name == "S1" else set())
    products = [use for use in uses if use.kernel in ("experts", "up", "down")]
    assert all(use.wgmma for use in products), products


@pytest.mark.parametrize("name", ["S1", "S5"])
def test_float32_fits(name: str) -> None:
    for use in usage_of(SHAPES[name], torch.float32):
        assert use.stack_bytes <= 16, use  # multiplied without tensor cores: exact, not fast
        assert use.shared_bytes <= SHARED_BYTES, use


def test_a_long_prefix_of_blocks_and_many_experts_compile() -> None:
    for use in usage_of(Shape(1 << 20, 64, 64, 256), torch.bfloat16):
        assert use.shared_bytes <= SHARED_BYTES, use


@pytest.mark.parametrize(
    ("shape", "dtype"), [(Shape(1, 16, 16, 1, 1), torch.bfloat16), (Shape(33, 100, 72, 5, 5), torch.float16)]
)
def test_odd_sizes_compile(shape: Shape, dtype: torch.dtype) -> None:
    """A number that is 1 is a constant to the compiler, which the interpreter does not show."""
    assert usage_of(shape, dtype)


@pytest.mark.parametrize("tokens", [200, 3200])
def test_the_choice_of_an_engine_s_step_compiles_without_spills(tokens: int) -> None:
    """With the number of real tokens in memory of the device: 1 and 16 requests of 200 candidates, 8 experts."""
    with compiled_only() as launched, torch.device("meta"):
        scores_TE, one = torch.empty(tokens, 8), torch.empty((), dtype=torch.int64)
        per_expert = torch.empty(8, dtype=torch.int64), 2, torch.empty(8), torch.empty(8)
        layer.chosen(scores_TE, *per_expert, one, one)
    assert [name for name, _, _ in launched] == ["prices", "assign", "route"]
    for _, _, kernel in launched:
        assert registers_and_stack(kernel.asm["cubin"])[1] == 0
        assert kernel.metadata.shared <= SHARED_BYTES


def test_nothing_stays_patched() -> None:
    from triton.runtime.jit import JITFunction

    before = JITFunction.run
    with compiled_only():
        assert JITFunction.run is not before
    assert JITFunction.run is before
