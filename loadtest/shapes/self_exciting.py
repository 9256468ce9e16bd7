"""Bursts that nobody planned: every request brings others after it, as news and shared links do.

The phase holds the mean rate only; the arrivals are those of `loadtest.arrivals.self_exciting`.
"""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.options import Options
from loadtest.shapes.phase import Phase


def phases(options: Options) -> Iterator[Phase]:
    """One phase of `--duration` with `--rate` as its mean."""
    yield Phase("calm", options.duration, options.rate)
