"""How long an answer may take: what the caller says in `X-Deadline-Ms`, counted from when the request came."""

from __future__ import annotations

from recsys.api.deps import Resources
from recsys.errors import InputError


def budget_s(header: bytes | str | None, res: Resources, *, default_ms: float | None = None) -> float:
    """Seconds left of the deadline; 0 or less: it passed while a busy loop left the request in its socket.

    Args:
        header: what `X-Deadline-Ms` holds.
        res: of this process.
        default_ms: without a header; that of the settings unless given.

    Raises:
        InputError: not a positive number, or more than the settings allow.
    """
    config = res.settings.api
    given_ms = float(config.deadline_ms if default_ms is None else default_ms)
    if header is not None:
        text = header.decode("latin-1") if isinstance(header, bytes) else header
        try:
            given_ms = float(text)
        except ValueError:
            given_ms = float("nan")
        if not 0 < given_ms <= config.deadline_ms_max:
            raise InputError(
                f"X-Deadline-Ms: {text[:40]!r} is not a number above 0 and up to {config.deadline_ms_max}",
                field="X-Deadline-Ms",
            )
    return given_ms / 1e3 - res.congestion.unread_s
