"""The sizes that ranking uses: what kernels are compiled, checked and measured for."""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """Tokens, width, hidden width of an expert, experts, experts per token."""

    tokens: int
    width: int
    hidden: int
    experts: int
    k: int = 2

    @property
    def slots(self) -> int:
        """Rows that the experts compute without drops."""
        return self.tokens * self.k


SHAPES = {
    "S1": Shape(512, 64, 128, 8),
    "S2": Shape(4096, 128, 256, 16),
    "S2b": Shape(8192, 128, 256, 32),
    "S3": Shape(32768, 256, 512, 32),
    "S4": Shape(65536, 128, 256, 32),
    "S5": Shape(16384, 512, 1024, 64),
    "S6": Shape(65536, 64, 128, 8),
}
"""One micro-batch (S1) to a burst (S4, S6); S5 is wider than the fused kernel serves."""
