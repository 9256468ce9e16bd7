"""Ids of requests: 128 random bits in hex, as those of a UUID, but the system is asked for many at once."""

from __future__ import annotations

import os

_AT_ONCE = 256
_kept: list[str] = []
os.register_at_fork(after_in_child=_kept.clear)


def new_request_id() -> str:
    """An id that no other request has."""
    if not _kept:
        digits = os.urandom(16 * _AT_ONCE).hex()
        _kept.extend(digits[start : start + 32] for start in range(0, len(digits), 32))
    return _kept.pop()
