"""Gentle traffic without end, and a flash crowd now and then: something to watch."""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.options import Options
from loadtest.shapes.phase import Phase


def phases(options: Options) -> Iterator[Phase]:
    """Calm and crowd in turn, forever; a period is `--crowd-every`."""
    calm = Phase("calm", options.crowd_every - options.crowd_seconds, options.rate)
    while True:
        yield calm
        # a new object each time: a new crowd draws a new category
        yield Phase("crowd", options.crowd_seconds, options.rate * options.crowd_factor, options.crowd_share)
