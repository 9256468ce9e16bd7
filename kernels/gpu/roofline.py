"""Counted work of a layer: the least time that any implementation needs, and what these kernels should take.

The machine is an H100 as a large product and a large copy see it; both are assumptions until a run measures them.
"""

from __future__ import annotations

import torch
import triton

from kernels.gpu import tiles
from kernels.gpu.shapes import Shape

PEAK_FLOPS = 800e12
PEAK_BYTES = 3.0e12
CACHE_BYTES = 5.5e12
LAUNCH_US = 2.5
"""Filling and draining the machine between dependent kernels of one graph."""
GEMM_SHARE = 0.6
"""Share of the peak that Triton products reach on larger sizes."""
ITEM = 2


def flops(shape: Shape) -> float:
    """Multiplications and additions: three products per slot and the gate."""
    tokens, width, hidden, experts, _ = shape
    return 6.0 * shape.slots * width * hidden + 2.0 * tokens * width * experts


def least_bytes(shape: Shape) -> float:
    """Tokens in and out, every weight once, ids and gates."""
    tokens, width, hidden, experts, _ = shape
    return 2.0 * tokens * width * ITEM + 3.0 * experts * width * hidden * ITEM + 8.0 * shape.slots


def floor_us(shape: Shape) -> float:
    """No implementation is faster: products at their peak, memory at its own."""
    return 1e6 * max(flops(shape) / PEAK_FLOPS, least_bytes(shape) / PEAK_BYTES)


def predicted_us(shape: Shape) -> float:
    """Time of `kernels.gpu.layer.moe` without a capacity, from its traffic, a GEMM share and its launches."""
    tokens, width, hidden, experts, _ = shape
    weights, rows = 3.0 * width * hidden * ITEM, shape.slots * width * ITEM
    if tiles.prefers_tiny(tokens, width, hidden, experts):  # few processors have work, each goes over all experts
        per_program = experts * weights / (CACHE_BYTES / 132)
        return LAUNCH_US + 1e6 * per_program
    route_s = tokens * width * ITEM / PEAK_BYTES
    blocks = triton.cdiv(tokens, tiles.tokens_per_block(tokens, max(16, experts)))
    plan_s = 4.0 * blocks * blocks * experts / CACHE_BYTES
    products_s = flops(shape) / (GEMM_SHARE * PEAK_FLOPS)
    per_tile = tiles.rows_per_tile(shape.slots, experts, torch.bfloat16)
    cache_s = weights * (shape.slots / per_tile + experts / 2) / CACHE_BYTES
    combine_s = (rows + tokens * width * ITEM) / PEAK_BYTES
    launches = 4
    if not tiles.fused_serves(width, torch.bfloat16):
        launches, cache_s = 5, 2.0 * shape.slots * hidden * ITEM / PEAK_BYTES
    return LAUNCH_US * launches + 1e6 * (route_s + plan_s + max(products_s, cache_s) + combine_s)
