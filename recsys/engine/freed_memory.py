"""Keep freed memory in the process: tensors of a step come and go, and fresh pages cost more than the work on them."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
KEPT_BYTES = 1 << 30
STEP_BYTES = 1 << 24


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse what a step freed, up to a gibibyte. False where there is another allocator."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wanted = ((M_MMAP_THRESHOLD, KEPT_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES), (M_TOP_PAD, STEP_BYTES))
    taken = [mallopt(option, value) == 1 for option, value in wanted]
    return all(taken)
