"""The matrix product that every kernel uses: exact float32 arithmetic, and right in the interpreter too."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

INTERPRETED: bool = triton.knobs.runtime.interpret
"""True under TRITON_INTERPRET=1: kernels run as numpy programs, on tensors of the CPU."""


def upcast(dtype: torch.dtype) -> bool:
    """Whether products need float32 operands: the interpreter's `tl.dot` is wrong for bfloat16 (triton issue 11584)."""
    return INTERPRETED and dtype == torch.bfloat16


def power_of_two(size: int, least: int = 16) -> int:
    """The block size that covers `size`; tensor cores want at least 16."""
    return max(least, 1 << max(0, size - 1).bit_length())


@triton.jit
def dot(a, b, acc, UPCAST: tl.constexpr):
    """`a @ b + acc` with a float32 accumulator; float32 operands are not rounded to tf32."""
    if UPCAST:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")
