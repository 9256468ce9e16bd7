"""The same offered rate from beginning to end."""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.options import Options
from loadtest.shapes.phase import Phase


def phases(options: Options) -> Iterator[Phase]:
    """One calm phase."""
    yield Phase("calm", options.duration, options.rate)
