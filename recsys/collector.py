"""Python's garbage collector in a process that answers: off what stays, and seldom.

With the default thresholds a process that serves thousands of requests a second looks through all that it holds every
few seconds (37 ms in the API under load), and every answer that is due meanwhile is late.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

YOUNG = 20_000  # objects made and not freed between two looks at the youngest; 700 by default
GENERATIONS = 20  # looks at a generation between two at the next older one; 10 by default


def collect_seldom() -> None:
    """Call when all that stays is there: it is never looked at again. What becomes garbage is found, but later."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, GENERATIONS, GENERATIONS)


@contextlib.contextmanager
def not_collecting() -> Iterator[None]:
    """No garbage is collected inside: for a load that lasts a minute at most and keeps all that it made."""
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
