"""Keep the garbage collector off what never becomes garbage.

Streamlit collects everything after every run of a script. With all the modules of a board in memory that takes ten
times as long as drawing the page; what is frozen is not looked at.
"""

from __future__ import annotations

import gc
import sys

_modules = 0


def freeze_modules() -> None:
    """Freeze what is there, if modules were loaded since the last time."""
    global _modules
    if len(sys.modules) != _modules:
        _modules = len(sys.modules)
        gc.collect()
        gc.freeze()
