"""A flash crowd that comes by one item: everybody has just seen the same thing.

Whatever the gates make of that item, they make of all of them: the demand falls on the experts of one history.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from loadtest.options import Options
from loadtest.shapes import flash_crowd
from loadtest.shapes.phase import Phase


def phases(options: Options) -> Iterator[Phase]:
    """Those of `flash_crowd`, with a crowd that is about an item."""
    return (replace(phase, about="item") for phase in flash_crowd.phases(options))
