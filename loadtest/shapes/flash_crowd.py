"""Calm, then at once many times the rate with most requests on one category, then calm again.

One category means few experts: balance over experts breaks at the same instant as the rate rises.
"""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.options import Options
from loadtest.shapes.phase import Phase


def phases(options: Options) -> Iterator[Phase]:
    """Calm before and after of equal length around the crowd; the step is immediate."""
    around_s = (options.duration - options.crowd_seconds) / 2
    yield Phase("calm", around_s, options.rate)
    yield Phase("crowd", options.crowd_seconds, options.rate * options.crowd_factor, options.crowd_share)
    yield Phase("after", around_s, options.rate)
