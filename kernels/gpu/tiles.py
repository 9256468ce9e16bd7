"""Tile sizes by width, hidden width and rows per expert: a table, since tuning inside a process stalls first calls.

Rows per tile follow the rows an expert gets on average: half a tile per expert is padding. The other sizes are the
largest whose registers and shared memory (227 KiB on an H100) hold the tile without spills; tests compile each of
them and hold it to that. They were chosen by counting, not yet by measuring on a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from kernels.gpu.dot import INTERPRETED, power_of_two

FUSED_WIDTH = 256
"""Widest model whose accumulator (rows x width, float32) fits beside the weights: above it `up` and `down` serve."""
FUSED_WIDTH_FLOAT32 = 64
TINY_FLOPS = 2e9
"""Work of a dense pass over all experts below which one launch beats four."""


class Tile(NamedTuple):
    """Rows of a tile, columns per step, reduction per step, warps, pipeline stages."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


def rows_per_tile(slots: int, experts: int, dtype: torch.dtype) -> int:
    """Rows of a tile for `slots` slots over `experts` experts."""
    mean = slots / max(1, experts)
    if dtype == torch.float32:  # multiplied without tensor cores: only exactness counts
        return 16 if mean <= 32 else 32
    if mean >= 512 and slots >= 1 << 15:  # 128 rows pay once there are tiles enough for all processors twice
        return 128
    return 16 if mean <= 32 else 32 if mean <= 64 else 64


def tokens_per_block(tokens: int, columns: int) -> int:
    """Tokens of a program that handles (tokens, experts) tables: 32..128, fewer where rows are long."""
    wanted = 32 if tokens <= 2048 else 64 if tokens <= 8192 else 128
    return max(16, min(wanted, 4096 // columns))


def tokens_together(tokens: int, columns: int) -> int:
    """Tokens of a block where all programs work together: 2048 numbers, 8 for each thread of eight warps."""
    return max(16, min(power_of_two(tokens), 2048 // columns))


def programs_together(blocks: int, device: torch.device) -> int:
    """Programs that wait for each other and so must run at once: one per processor at most, one in the interpreter."""
    if INTERPRETED:
        return 1
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132
    return max(1, min(blocks, processors))


def warps_of(numbers: int) -> int:
    """Warps that keep a table of `numbers` numbers in registers, 16 per thread, several such tables at a time."""
    return max(4, min(8, numbers // 512))


def fused_serves(width: int, dtype: torch.dtype) -> bool:
    """Whether the one-kernel form of the experts exists for this width."""
    return width <= (FUSED_WIDTH_FLOAT32 if dtype == torch.float32 else FUSED_WIDTH)


def fused(width: int, rows: int, dtype: torch.dtype) -> Tile:
    """`experts`: columns are hidden columns per step; the whole width is one step."""
    if dtype == torch.float32:
        return Tile(rows, 16, width, 8, 1)
    columns = 64 if width <= 128 else 32
    return Tile(rows, columns, width, 8 if rows == 128 else 4, 2)


def up(rows: int, dtype: torch.dtype) -> Tile:
    """`up`: columns of each half of the hidden width, depth in the width."""
    if dtype == torch.float32:
        return Tile(rows, 32, 16, 4, 1)
    return Tile(rows, 64, 64, 8 if rows == 128 else 4, 3)


def down(rows: int, dtype: torch.dtype) -> Tile:
    """`down`: columns of the width, depth in the hidden width."""
    if dtype == torch.float32:
        return Tile(rows, 32, 16, 4, 1)
    return Tile(rows, 128, 64, 8 if rows == 128 else 4, 3)


def tiny(tokens: int, width: int, dtype: torch.dtype) -> Tile:
    """`tiny`: rows are tokens of a program, columns hidden columns per step."""
    return Tile(16, 16 if dtype == torch.float32 else 32, width, 8 if dtype == torch.float32 else 4, 2)


def prefers_tiny(tokens: int, width: int, hidden: int, experts: int) -> bool:
    """Whether one launch over all experts is the better form of a dropless layer."""
    return width <= 128 and 6.0 * tokens * experts * width * hidden <= TINY_FLOPS
