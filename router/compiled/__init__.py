"""Price routing on a CPU as scalar loops, compiled by numba where it is installed (extra `fast`).

`sweeps` finds prices, `holding` says who holds what at them, `chains` makes that exact, `fill` writes the plan. Each is
called from Python: numba does not notice when a compiled function of another file changes, so none of them calls
another's.
Without numba the same steps run as tensor operations (`router.sweeps`, `router.chains`, `router.spill`), slower.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

available = find_spec("numba") is not None


def jit(function: Callable[..., Any]) -> Any:
    """Machine code, kept on disk where a folder can be written."""
    if not available:
        return function
    import numba

    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no writable folder for the cache
        return numba.njit(nogil=True)(function)
