"""Sizes that the MoE bench runs on a CPU, and the work that is counted for each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from kernels.gpu.shapes import SHAPES

MOST_GFLOP = 30.0
"""What takes longer on a CPU (S3, S5) says nothing that the others do not."""
GRID = (128, 256, 16)
"""Width, hidden width and experts of the sizes from 64 to 4096 tokens."""
SERVED = (64, 64, 8)
"""The same of the model that is trained by default; a request brings 200 candidates."""
CANDIDATES = 200


@dataclass(frozen=True, slots=True)
class Case:
    """One size.

    Attributes:
        with_compile: whether torch.compile is worth its seconds here.
    """

    name: str
    tokens: int
    width: int
    hidden: int
    experts: int
    k: int = 2
    with_compile: bool = False

    @property
    def flops(self) -> float:
        """Multiplications and additions that no form can avoid: three products per slot and the gate."""
        return 6.0 * self.tokens * self.k * self.width * self.hidden + 2.0 * self.tokens * self.width * self.experts

    def least_bytes(self, item: int) -> float:
        """Tokens in and out and every weight, once each."""
        return (2.0 * self.tokens * self.width + 3.0 * self.experts * self.width * self.hidden) * item

    def facts(self) -> dict[str, float | str]:
        """For a row of the table."""
        row: dict[str, float | str] = {"shape": self.name, **asdict(self), "gflop": self.flops / 1e9}
        del row["name"], row["with_compile"]
        return row


def cases(quick: bool) -> list[Case]:
    """The grid, the engine's micro-batches, and those of S1 to S6 that fit a CPU; `quick` has one of each."""
    grid = [Case(f"T{tokens}", tokens, *GRID, with_compile=tokens == 512) for tokens in (64, 256, 512, 1024)]
    served = [Case(f"R{n}", n * CANDIDATES, *SERVED, with_compile=n == 4) for n in (1, 2, 4, 8, 16)]
    large = [Case(name, *shape) for name, shape in SHAPES.items()]
    large = [case for case in large if case.flops <= MOST_GFLOP * 1e9]
    return (
        [replace(case, with_compile=False) for case in (grid[0], served[0], large[0])]
        if quick
        else [*grid, *served, *large]
    )
