"""The rate climbs in equal steps: where does the service stop keeping up?"""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.options import Options
from loadtest.shapes.phase import Phase


def phases(options: Options) -> Iterator[Phase]:
    """`--steps` levels of equal length, from `--rate` to `--crowd-factor` times that; each is counted by itself."""
    for n in range(options.steps):
        rate = options.rate * (1 + (options.crowd_factor - 1) * n / (options.steps - 1))
        yield Phase(f"step {n + 1}" if n else "calm", options.duration / options.steps, rate)
