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


_decode = msgspec.json.Decoder(_Answer).decode


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
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: bytes, deadline_ms: float) -> tuple[int, bytes]:
        """Status and body; status 0 if the connection broke."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"X-Deadline-Ms: {deadline_ms:g}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        async with self._room:
            try:
                reader, writer = self._idle.pop() if self._idle else await self._open()
            except OSError:
                return 0, b""
            try:
                writer.write(head.encode() + body)
                status, answer = await _read(reader)
            except (OSError, asyncio.IncompleteReadError):
                writer.close()
                return 0, b""
            self._idle.append((reader, writer))
            return status, answer

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port)

    def close(self) -> None:
        """Close what is idle."""
        for _, writer in self._idle:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


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
    tasks: list[asyncio.Task[Outcome]] = []
    while due_s < seconds:
        pause_s = began + due_s - time.monotonic()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        tasks.append(asyncio.create_task(_one(pool, body_at(due_s, asked), began, due_s, deadline_ms)))
        asked += 1
        due_s += 1 / rate_at(due_s)
    return list(await asyncio.gather(*tasks))


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


async def _one(pool: Connections, body: bytes, began: float, due_s: float, deadline_ms: float) -> Outcome:
    status, answer = await pool.post("/v1/recommendations", body, deadline_ms)
    latency_s = time.monotonic() - began - due_s
    if status != 200:
        return Outcome(due_s, latency_s, status)
    found = _decode(answer)
    degraded = found.degraded or _Degraded("", 1.0)
    return Outcome(
        due_s,
        latency_s,
        status,
        degraded.step,
        degraded.score_kept,
        found.fallback is not None,
        degraded.redirected,
        tuple(item.item_id for item in found.items),
    )
