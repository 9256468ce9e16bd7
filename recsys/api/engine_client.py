"""The API's end of the wire to one engine. Every question is answered, refused, or failed; none waits for ever.

A lost connection is noticed by the socket's own events, so that callers in flight are told at once and not by
their deadline; pings every quarter second notice an engine that hangs.

The sockets are plain ones that the event loop watches: `zmq.asyncio` makes a future and asks for the socket's events
several times for every message, which costs more than the message.
"""

from __future__ import annotations

import asyncio
import itertools
import time

import structlog
import zmq
from zmq.utils.monitor import recv_monitor_message

from recsys.errors import OverloadedError, RecsysError
from recsys.wire import Ping, Pong, RankReply, RankRequest, Similar, ToEngine, bundles, decode_from_engine

log = structlog.get_logger(__name__)

PING_EVERY_S = 0.25
SILENT_AFTER_S = 2.0
_READABLE = int(zmq.POLLIN)
_AT_ONCE = 16  # bundles read before the event loop goes on with other work


class EngineLostError(RecsysError):
    """No engine answers: none is there, it went away with the question, or it hangs. The caller may fall back."""


class EngineClient:
    """One connection to the engine. Use within one event loop: `start`, then `ask`, then `close`.

    Args:
        endpoint: ZeroMQ address of the engine.
        in_flight_max: questions without an answer; above it `OverloadedError`.
    """

    def __init__(self, endpoint: str, *, in_flight_max: int) -> None:
        self._endpoint = endpoint
        self._in_flight_max = in_flight_max
        self._pending: dict[str, asyncio.Future[RankReply]] = {}
        self._connected = False
        self._looking = False
        self._outgoing: list[ToEngine] = []
        self._pong: Pong | None = None
        self._heard_s = -1e9

    @property
    def in_flight(self) -> int:
        """Questions without an answer."""
        return len(self._pending)

    @property
    def load(self) -> int:
        """Questions of this process without an answer, and the queue that the engine last reported."""
        return len(self._pending) + (self._pong.queue if self._pong else 0)

    @property
    def alive(self) -> bool:
        """Connected, and heard of lately."""
        return self._connected and time.monotonic() - self._heard_s < SILENT_AFTER_S

    @property
    def ready(self) -> bool:
        """Alive, with its model and catalogue loaded."""
        return self.alive and self._pong is not None and self._pong.ready

    @property
    def model_version(self) -> str:
        """Version the engine last reported, or ""."""
        return self._pong.model_version if self._pong else ""

    async def start(self) -> None:
        """Connect (or keep trying to) and start listening."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued for an engine that is not there
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        self._socket.setsockopt(zmq.SNDHWM, self._in_flight_max + 16)
        self._socket.setsockopt(zmq.RCVHWM, self._in_flight_max + 16)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._socket.connect(self._endpoint)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(int(self._socket.getsockopt(zmq.FD)), self._listen)
        self._loop.add_reader(int(self._monitor.getsockopt(zmq.FD)), self._watch)
        self._pinging = asyncio.create_task(self._ping(), name="engine-ping")

    async def close(self) -> None:
        """Fail what is pending and disconnect."""
        self._pinging.cancel()
        await asyncio.gather(self._pinging, return_exceptions=True)
        for socket in (self._socket, self._monitor):
            self._loop.remove_reader(int(socket.getsockopt(zmq.FD)))
        self._fail_pending("the API is stopping")
        self._socket.disable_monitor()
        self._context.destroy(linger=0)

    async def ask(self, question: RankRequest | Similar, *, timeout_s: float) -> RankReply:
        """The engine's reply.

        Raises:
            OverloadedError: too many questions are waiting already.
            EngineLostError: there is no engine, it went away, or it did not answer within `timeout_s`.
        """
        if len(self._pending) >= self._in_flight_max:
            raise OverloadedError(f"{self._in_flight_max} requests are waiting for the engine already")
        if not self.alive:
            raise EngineLostError("no engine")
        future: asyncio.Future[RankReply] = self._loop.create_future()
        self._pending[question.id] = future
        in_time = self._loop.call_later(timeout_s, expire, future)
        try:
            self._send(question)
            return await future
        finally:
            in_time.cancel()
            self._pending.pop(question.id, None)

    def _send(self, message: ToEngine) -> None:
        """Send with what else this turn of the loop sends, as one bundle."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(message)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self._socket.closed:
            return
        try:
            for frame in bundles(outgoing):
                self._socket.send(frame, zmq.DONTWAIT)
        except zmq.Again:  # the connection is lost, and with it whatever was on its way
            self._fail_pending("no engine")
        self._listen_soon()

    def _listen_soon(self) -> None:
        """A socket's descriptor tells of news once, and sending takes the news away: look again after it."""
        if not self._looking:
            self._looking = True
            self._loop.call_soon(self._listen)

    def _listen(self) -> None:
        self._looking = False
        if self._socket.closed:
            return
        for _ in range(_AT_ONCE):
            if not int(self._socket.getsockopt(zmq.EVENTS)) & _READABLE:
                return
            messages, errors = decode_from_engine(self._socket.recv())
            for error in errors:
                log.warning("bad_reply", error=error[:200])
            self._heard_s = time.monotonic()
            for message in messages:
                if isinstance(message, Pong):
                    self._pong = message
                elif (future := self._pending.get(message.id)) and not future.done():
                    future.set_result(message)
        self._listen_soon()

    def _watch(self) -> None:
        while int(self._monitor.getsockopt(zmq.EVENTS)) & _READABLE:
            event = recv_monitor_message(self._monitor, zmq.DONTWAIT)
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._connected, self._heard_s = True, time.monotonic()
                log.info("engine_connected", endpoint=self._endpoint)
            else:
                self._connected, self._pong = False, None
                log.warning("engine_lost", endpoint=self._endpoint, pending=len(self._pending))
                self._fail_pending("the engine went away")

    async def _ping(self) -> None:
        for n in itertools.count():
            self._send(Ping(n))
            self._watch()
            if self._connected and not self.alive:
                self._fail_pending("the engine hangs")
            await asyncio.sleep(PING_EVERY_S)

    def _fail_pending(self, why: str) -> None:
        for future in self._pending.values():
            if not future.done():
                future.set_exception(EngineLostError(why))


def expire(future: asyncio.Future[RankReply]) -> None:
    """The time for a question is over."""
    if not future.done():
        future.set_exception(EngineLostError("the engine did not answer in time"))
