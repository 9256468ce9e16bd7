"""Open-loop HTTP load: requests start when they are due, whether or not the last ones are back.

A few bare keep-alive connections instead of a client library, which would need a core of its own at these rates.
Latency runs from the moment a request was due, so that a client or a service that falls behind hides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec


class _Degraded(msgspec.Struct):
    step: str
    score_kept: float
    redirected: float = 0.0


class _Item(msgspec.Struct):
    item_id: str


class _Answer(msgspec.Struct):
    """What is read of an answer; the rest is skipped."""

    items: list[_Item] = []
    degraded: _Degraded | None = None
    fallback: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. `status` 0: the connection broke. Times are seconds, `due_s` since the load began.

    `late_s` is how long after it was due the load generator itself sent the request; `latency_s` counts it too.
    `gain` is for who asked to fill in: what the list was worth.
    """

    due_s: float
    latency_s: float
    status: int
    step: str = ""
    score_kept: float = 1.0
    fallback: bool = False
    redirected: float = 0.0
    items: tuple[str, ...] = ()
    gain: float = 0.0
    late_s: float = 0.0

    @property
    def accepted(self) -> bool:
        """Answered by the model."""
        return self.status == 200 and not self.fallback


_decode = msgspec.json.Decoder(_Answer).decode


class _Connection(asyncio.Protocol):
    """One keep-alive connection with one request under way at most."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Status and body; status 0 if the connection breaks."""
        assert self.transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self._received[:head_end]).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(self._received) >= head_end + 4 + length:
            body = bytes(self._received[head_end + 4 : head_end + 4 + length])
            self._received.clear()
            self._settle((int(head.split(b" ", 2)[1]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._settle((0, b""))

    def _settle(self, answer: tuple[int, bytes]) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


class Connections:
    """A bounded pool of connections to one server.

    Args:
        base: `http://host:port`.
        most: connections opened, and with them requests under way.
    """

    def __init__(self, base: str, most: int) -> None:
        address = urlsplit(base)
        self._host, self._port = str(address.hostname), int(address.port or 80)
        self._room = asyncio.Semaphore(most)
        self._idle: list[_Connection] = []

    async def post(self, path: str, body: bytes, deadline_ms: float) -> tuple[int, bytes]:
        """Status and body; status 0 if the connection broke."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"X-Deadline-Ms: {deadline_ms:g}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        async with self._room:
            connection = self._idle.pop() if self._idle else None
            if connection is None or connection.transport is None:
                try:
                    _, connection = await asyncio.get_running_loop().create_connection(
                        _Connection, self._host, self._port
                    )
                except OSError:
                    return 0, b""
            answer = await connection.ask(head.encode() + body)
            if answer[0]:
                self._idle.append(connection)
            return answer

    def close(self) -> None:
        """Close what is idle."""
        for connection in self._idle:
            if connection.transport is not None:
                connection.transport.close()


@contextlib.asynccontextmanager
async def connections(base: str, most: int) -> AsyncIterator[Connections]:
    """A pool that is closed in the end."""
    pool = Connections(base, most)
    try:
        yield pool
    finally:
        pool.close()


async def open_loop(
    pool: Connections,
    rate_at: Callable[[float], float],
    body_at: Callable[[float, int], bytes],
    *,
    seconds: float,
    deadline_ms: float,
) -> list[Outcome]:
    """Send recommendations at `rate_at(t)` per second, evenly spaced; the outcomes in the order they were due."""
    began, due_s, asked = time.monotonic(), 0.0, 0
    tasks: list[asyncio.Task[_Sent]] = []
    while due_s < seconds:
        pause_s = began + due_s - time.monotonic()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        tasks.append(asyncio.create_task(_one(pool, body_at(due_s, asked), began, due_s, deadline_ms)))
        asked += 1
        due_s += 1 / rate_at(due_s)
    return [_outcome(sent) for sent in await asyncio.gather(*tasks)]


async def closed_loop(pool: Connections, bodies: list[bytes], *, callers: int, seconds: float) -> float:
    """Answers per second when `callers` each ask again as soon as they are answered: the rate of saturation."""
    began, answered = time.monotonic(), 0

    async def caller(first: int) -> None:
        nonlocal answered
        turn = first
        while time.monotonic() - began < seconds:
            status, _ = await pool.post("/v1/recommendations", bodies[turn % len(bodies)], 10_000)
            answered += status == 200
            turn += callers

    await asyncio.gather(*(caller(n) for n in range(callers)))
    return answered / (time.monotonic() - began)


class _Sent(NamedTuple):
    """One request as it went; its answer is decoded when the load is over."""

    due_s: float
    late_s: float
    latency_s: float
    status: int
    answer: bytes


async def _one(pool: Connections, body: bytes, began: float, due_s: float, deadline_ms: float) -> _Sent:
    late_s = time.monotonic() - began - due_s
    status, answer = await pool.post("/v1/recommendations", body, deadline_ms)
    return _Sent(due_s, late_s, time.monotonic() - began - due_s, status, answer)


def _outcome(sent: _Sent) -> Outcome:
    if sent.status != 200:
        return Outcome(sent.due_s, sent.latency_s, sent.status, late_s=sent.late_s)
    found = _decode(sent.answer)
    degraded = found.degraded or _Degraded("", 1.0)
    return Outcome(
        sent.due_s,
        sent.latency_s,
        sent.status,
        degraded.step,
        degraded.score_kept,
        found.fallback is not None,
        degraded.redirected,
        tuple(item.item_id for item in found.items),
        late_s=sent.late_s,
    )
