"""SIGTERM and SIGINT end a process in order: what is in hand is finished."""

from __future__ import annotations

import signal
from collections.abc import Callable


def on_stop(call: Callable[[], object]) -> None:
    """Call this, from the main thread, when the process is told to end."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: call())
