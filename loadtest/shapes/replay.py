"""Real events in the order and the rhythm of their times; the phase holds their mean rate only."""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.options import Options
from loadtest.shapes.phase import Phase


def phases(options: Options) -> Iterator[Phase]:
    """One phase of `--duration` with `--rate` as its mean."""
    yield Phase("calm", options.duration, options.rate)
