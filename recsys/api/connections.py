"""Bounds on connections: how many, and how long one may take to send a request.

uvicorn waits for ever for the rest of a request, and takes headers of any length. Here one sweep a second closes what
is too slow, and what does not take its answer; and where too many connections are open, those that have waited longest
make room for new ones, so that thousands of connections that send nothing, or read nothing, lock nobody out.
"""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from recsys.api.problems import problem
from recsys.config import ApiSettings, Settings

SWEEP_EVERY_S = 1.0
HEADER_BYTES_MAX = 524_288  # with what of the body came in the same piece


@lru_cache(maxsize=1)
def _bounds() -> ApiSettings:
    """The settings of this process; uvicorn makes protocols itself and passes none."""
    return Settings().api


def _refusal(status: int, detail: str) -> bytes:
    """A whole answer for a connection that is then closed."""
    answer = problem(status, detail, headers={"Connection": "close"})
    head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode(), *(b": ".join(h) for h in answer.raw_headers)]
    return b"\r\n".join(head) + b"\r\n\r\n" + bytes(answer.body)


class BoundedConnection(HttpToolsProtocol):
    """One connection. `waiting_s`: since when (the rest of) a request is awaited, None while one is answered."""

    _sweeping: ClassVar[asyncio.TimerHandle | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waiting_s: float | None = None
        self.answered = False  # any request
        self._started = False  # anything of a request was sent
        self._in_body = False  # its headers are complete, its body is not
        self._header_bytes = 0
        self._unread = (0, 0.0)  # bytes of answers that the caller has not taken, and since when they are not fewer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= _bounds().connections_max and not self._make_room():
            transport.write(_refusal(503, "too many connections"))
            transport.close()
        super().connection_made(transport)
        self.waiting_s = time.monotonic()
        if BoundedConnection._sweeping is None:
            self._sweep_later()

    def data_received(self, data: bytes) -> None:
        if not self._started:
            self._started, self.waiting_s, self._header_bytes = True, time.monotonic(), 0
        if not self._in_body:
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES_MAX:
                self._close(431, f"headers: longer than {HEADER_BYTES_MAX} bytes")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._started = True  # a request may begin in the piece that the one before ends in

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_body = True

    def on_message_complete(self) -> None:
        super().on_message_complete()
        answered = self.cycle is not None and self.cycle.response_complete  # before its body was here
        self._started, self.waiting_s, self._header_bytes = False, time.monotonic() if answered else None, 0
        self._in_body = False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.answered = True
        if self.waiting_s is None:
            self.waiting_s = time.monotonic()  # for the next request

    def connection_lost(self, exc: Exception | None) -> None:
        self.waiting_s = None
        super().connection_lost(exc)

    def _close(self, status: int, detail: str) -> None:
        """Answer, unless an answer has begun, and close."""
        if self.transport.is_closing():
            return
        begun = self.cycle is not None and self.cycle.response_started
        if self._started and not (begun and (self._in_body or not self.cycle.response_complete)):
            self.transport.write(_refusal(status, detail))
        self.transport.close()

    def _takes_nothing(self, now_s: float, within_s: float) -> bool:
        """Whether no byte of what is there for the caller was taken for that long."""
        unread, (before, since_s) = self.transport.get_write_buffer_size(), self._unread
        if not unread or unread < before or not before:
            since_s = now_s
        self._unread = unread, since_s
        return now_s - since_s > within_s

    def _make_room(self) -> bool:
        """Close a sixteenth of the connections: those that have waited longest for a request. False: none waits."""
        waiting = [c for c in self.connections if isinstance(c, BoundedConnection) and c.waiting_s is not None]
        waiting.sort(key=lambda c: c.waiting_s or 0.0)
        for connection in waiting[: len(self.connections) // 16 + 1]:
            connection._close(408, "too many connections, and this one has waited longest")
            if connection.transport.get_write_buffer_size():
                connection.transport.abort()  # `close` would wait for the caller to read
            self.connections.discard(connection)
        return bool(waiting)

    def _sweep_later(self) -> None:
        BoundedConnection._sweeping = self.loop.call_later(SWEEP_EVERY_S, self._sweep)

    def _sweep(self) -> None:
        """Close what is too slow; come back while there are connections."""
        within_s, now_s = _bounds().read_timeout_s, time.monotonic()
        for connection in list(self.connections):
            if not isinstance(connection, BoundedConnection):
                continue
            waiting_s = connection.waiting_s
            if connection._takes_nothing(now_s, within_s):
                connection.transport.abort()
            elif waiting_s is None or waiting_s >= now_s - within_s:
                continue
            elif connection._started or not connection.answered:
                connection._close(408, f"the request was not complete within {within_s:g} s")
            elif waiting_s < now_s - connection.timeout_keep_alive:
                connection.transport.close()
        BoundedConnection._sweeping = None
        if self.connections:
            self._sweep_later()
