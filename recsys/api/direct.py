"""Hot requests answered on their connection: no scope, no ASGI messages, no task, one write.

A request is answered here if it is whole, alone and plain: nothing else is under way on its connection, and its head
says nothing but where it goes and how long it is (`recsys/api/heads.py`). Everything else goes uvicorn's way, which
remains the only parser of HTTP.
"""

from __future__ import annotations

import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from recsys.api.connections import BoundedConnection
from recsys.api.heads import BYTES_MAX, LINE, Head, read_head
from recsys.api.hot import HotRecommendations
from recsys.api.problems import Answered

STATE = "hot"  # name of the `HotRecommendations` in the state that the application's lifespan yields


class DirectConnection(BoundedConnection):
    """One connection. At most one request of it is under way here, and none of uvicorn's meanwhile."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        hot = self.app_state.get(STATE)
        plain = not self.access_log and self.limit_concurrency is None and not self.root_path
        self._hot: HotRecommendations | None = hot if plain else None
        self._head: Head | None = None  # of the request under way, or of one whose body is not all here
        self._gathered: bytearray | None = None  # a request whose body is not all here
        self._early = b""  # came before the answer to the request under way
        self._last = False  # close after the answer

    def data_received(self, data: bytes) -> None:
        if self._gathered is not None:
            self._gathered += data
            if len(self._gathered) < self._length:
                return
            data, self._gathered = bytes(self._gathered), None
            self._head, self._started = None, False
        elif self._head is not None:
            self._early += data
            self.flow.pause_reading()
            return
        if not self._direct(data):
            super().data_received(data)

    def _direct(self, data: bytes) -> bool:
        """Answer a request, or wait for the rest of it. False: not plain, and nothing was done."""
        if not data.startswith(LINE) or self._hot is None or not self._idle():
            return False
        end = data.find(b"\r\n\r\n", 0, BYTES_MAX) + 4
        head = read_head(data[:end]) if end >= len(LINE) else None
        if head is None or head.body_bytes > self._hot.longest or len(data) > end + head.body_bytes:
            return False
        whole = len(data) == end + head.body_bytes
        if not whole and not self._hot.waits(head):
            return False
        self._unset_keepalive_if_required()
        self._head = head
        if not whole:
            self._started, self.waiting_s = True, time.monotonic()
            self._gathered, self._length = bytearray(data), end + head.body_bytes
            return True
        self._started, self.waiting_s = False, None
        host = self.client[0] if self.client else ""
        if self._hot.start(head, data[end:], host, self._answer):
            return True
        self._head = None
        return False

    def _idle(self) -> bool:
        """Whether nothing is under way, and nothing of a request was read."""
        return (
            not self._started
            and (self.cycle is None or self.cycle.response_complete)
            and not self.pipeline
            and not self.flow.write_paused
            and not self.transport.is_closing()
        )

    def _answer(self, found: Answered) -> None:
        """Send the answer to the request under way."""
        head, self._head = self._head, None
        assert head is not None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        close = not head.keep_alive or (self._last and not self._early)
        lines = [STATUS_LINE[found.status]]
        for name, value in (*self.server_state.default_headers, *found.headers):
            lines += (name, b": ", value, b"\r\n")
        lines += (b"connection: close\r\n\r\n" if close else b"\r\n", found.body)
        self.transport.write(b"".join(lines))
        if close:
            self.transport.close()
            return
        self.answered, self.waiting_s = True, time.monotonic()
        if self._early:
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Read what came early."""
        data, self._early = self._early, b""
        self.flow.resume_reading()
        if not self.transport.is_closing():
            self.data_received(data)
            if self._last:
                self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gathered, self._early = None, b""
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close, after the answer to what has begun."""
        if self._head is not None or self._early:
            self._last = True
        else:
            super().shutdown()
