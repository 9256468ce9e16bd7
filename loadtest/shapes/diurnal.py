"""A day in the length of the run: from the quiet of the night to the evening's peak and back."""

from __future__ import annotations

from collections.abc import Iterator
from math import cos, tau

from loadtest.options import Options
from loadtest.shapes.phase import Phase

SLICES = 48  # half hours


def phases(options: Options) -> Iterator[Phase]:
    """A cosine from `--rate` up to `--crowd-factor` times that and down again, in half hours of the day.

    The half of the day above the mean rate counts as `crowd`, the two quarters around it as `calm` and `after`.
    """
    for n in range(SLICES):
        height = (1 - cos(tau * (n + 0.5) / SLICES)) / 2
        name = "calm" if n < SLICES // 4 else "crowd" if n < 3 * SLICES // 4 else "after"
        yield Phase(name, options.duration / SLICES, options.rate * (1 + (options.crowd_factor - 1) * height))
