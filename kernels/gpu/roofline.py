"""Counted work of a layer: the least time that any implementation needs, and what these kernels should take.

The machine is an H100 as a large product and a large copy see it; both are assumptions until a run measures them.
"""

from __future__ import annotations

import torch
import triton

from kernels.gpu import tiles
from kernels.gpu.dot import power_of_two
from kernels.gpu.shapes import Shape
from kernels.gpu.together import PRICE_BITS, digits, key_bits

PEAK_FLOPS = 800e12
PEAK_BYTES = 3.0e12
CACHE_BYTES = 5.5e12
LAUNCH_US = 2.5
"""Filling and draining the machine between dependent kernels of one graph."""
MEETING_US = 1.5
"""All programs of a cooperative launch waiting for each other."""
SWEEPS, ROUNDS = 6, 3  # that a batch takes of `prices` and `assign`, as seen in the interpreter on skewed tokens
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


def floor_us(shape: Shape, peak_flops: float = PEAK_FLOPS, peak_bytes: float = PEAK_BYTES) -> float:
    """No implementation is faster: products at their peak, memory at its own."""
    return 1e6 * max(flops(shape) / peak_flops, least_bytes(shape) / peak_bytes)


def predicted_us(shape: Shape) -> float:
    """Time of `kernels.gpu.layer.moe` without a capacity, from its traffic, a GEMM share and its launches."""
    tokens, width, hidden, experts, _ = shape
    if tiles.prefers_tiny(tokens, width, hidden, experts):  # few processors have work, each goes over all experts
        per_program = experts * 3.0 * width * hidden * ITEM / (CACHE_BYTES / 132)
        return LAUNCH_US + 1e6 * per_program
    return _layer_us(shape)


def _layer_us(shape: Shape) -> float:
    tokens, width, hidden, experts, _ = shape
    weights, rows = 3.0 * width * hidden * ITEM, shape.slots * width * ITEM
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


def balanced_us(shape: Shape) -> float:
    """Time of `kernels.gpu.layer.balanced`: the layer, six launches more, and what its programs wait for each other."""
    columns = power_of_two(shape.experts)
    price_levels, key_levels = digits(columns, PRICE_BITS)[1], digits(columns, key_bits(shape.tokens)[0])[1]
    meetings = 1 + SWEEPS * (1 + price_levels) + ROUNDS * (1 + key_levels) + 1
    blocks = triton.cdiv(shape.tokens, tiles.tokens_together(shape.tokens, columns))
    passes = triton.cdiv(blocks, 132) * meetings  # of 2048 numbers by eight warps: about 0.7 us
    return _layer_us(shape) + 6 * LAUNCH_US + MEETING_US * meetings + 0.7 * passes
