"""The engine's socket: bundles of requests come in, and replies leave as one bundle for each API process.

Used by one thread at a time, under a lock; a thread that waits for news holds none, so that another one may go on.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterable

import structlog
import zmq

from recsys.engine.admission import Addressed
from recsys.errors import UnavailableError
from recsys.wire import FromEngine, ToEngine, bundles, decode_to_engine

log = structlog.get_logger(__name__)

AT_ONCE = 16  # bundles read before other work goes on
LINGER_MS = 200


class Door:
    """A bound ROUTER socket.

    Args:
        admit: takes each message in the order of arrival, and returns what is to be answered at once.

    Raises:
        UnavailableError: nothing can listen at that endpoint.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        admit: Callable[[bytes, ToEngine], Addressed | None],
    ) -> None:
        self._admit = admit
        self._lock = threading.Lock()
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._socket.close()
            raise UnavailableError(f"RECSYS_ENGINE__ENDPOINT: cannot listen on {endpoint}: {error}") from None
        self._news_fd = int(self._socket.getsockopt(zmq.FD))

    def receive(self) -> bool:
        """Admit what is there, in the order of arrival; True if more may be there."""
        with self._lock:
            for _ in range(AT_ONCE):
                try:
                    peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    return False
                messages, errors = decode_to_engine(frames[-1] if frames else b"")
                for error in errors:
                    log.warning("bad_message", error=error[:200])
                answers = [answer for message in messages if (answer := self._admit(peer, message)) is not None]
                if answers:
                    self._send(answers)
        return True

    def send(self, replies: Iterable[Addressed]) -> None:
        """Replies leave in order."""
        with self._lock:
            self._send(replies)

    def wait(self, seconds: float) -> None:
        """Until something may have come since `receive` found nothing more, or the time is over."""
        news = select.poll()  # one for each thread that waits
        news.register(self._news_fd, select.POLLIN)
        news.poll(seconds * 1e3)

    def _send(self, replies: Iterable[Addressed]) -> None:
        of_peer: dict[bytes, list[FromEngine]] = {}
        for peer, reply in replies:
            of_peer.setdefault(peer, []).append(reply)
        for peer, messages in of_peer.items():
            for frame in bundles(messages):
                self._socket.send_multipart([peer, frame])
