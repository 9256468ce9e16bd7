"""Heads of hot requests, read once: a caller sends the same bytes with every request of a connection.

What a head means is decided by the server's own parser, so that nothing is taken here that it would refuse or read in
another way; its findings are remembered by the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import httptools

TARGET = b"/v1/recommendations"
LINE = b"POST " + TARGET + b" HTTP/1.1\r\n"
BYTES_MAX = 4_096  # longer ones are not remembered
_KEPT = 1_024
_MORE_THAN_A_BODY = {b"transfer-encoding", b"expect", b"upgrade"}


@dataclass(frozen=True, slots=True)
class Head:
    """Head of a plain hot request: JSON of a declared length, and nothing to negotiate.

    Attributes:
        headers: as sent, names in lower case.
        body_bytes: declared length of the body, > 0.
        keep_alive: whether the connection outlives the answer.
        deadline: header `X-Deadline-Ms`.
        forwarded: whether a proxy speaks for somebody else.
    """

    headers: Sequence[tuple[bytes, bytes]]
    body_bytes: int
    keep_alive: bool
    deadline: bytes | None
    forwarded: bool


@dataclass(slots=True)
class _Parsed:
    """Callbacks of the parser."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    complete: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete = True


def json_length(headers: dict[bytes, bytes]) -> int:
    """Bytes of a body of JSON as declared, 0 if it is something else or of unknown length."""
    if not headers.get(b"content-type", b"").startswith(b"application/json"):
        return 0
    declared = headers.get(b"content-length", b"")
    return int(declared) if declared.isdigit() else 0


@lru_cache(maxsize=_KEPT)
def read_head(head: bytes) -> Head | None:
    """What a head that begins with `LINE` and ends with an empty line says; None: not plain."""
    parsed = _Parsed()
    parser = httptools.HttpRequestParser(parsed)
    try:
        parser.feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    headers = dict(parsed.headers)
    length = json_length(headers)
    if not parsed.complete or not length or not _MORE_THAN_A_BODY.isdisjoint(headers):
        return None
    return Head(
        headers=parsed.headers,
        body_bytes=length,
        keep_alive=parser.should_keep_alive(),
        deadline=headers.get(b"x-deadline-ms"),
        forwarded=b"x-forwarded-for" in headers,
    )
