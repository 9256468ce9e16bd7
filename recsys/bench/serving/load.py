"""The load: a process that asks over bare sockets, as fast as answers come (closed) or at a rate (open).

Run as `python -m recsys.bench.serving.load SPEC`, where SPEC is the JSON of a `LoadSpec`; several processes share a
load. Latencies of the open loop run from the moment a request was due, so a server or a client that falls behind hides
nothing. The result is one line of JSON; the latencies are bytes in base64, float32 seconds.
"""

from __future__ import annotations

import array
import asyncio
import base64
import gc
import random
import sys
import time
from collections import deque
from typing import cast

import msgspec
import uvloop

from recsys.bench.serving.questions import WIRES, questions

SPIN_S = 0.0015  # timers tick in milliseconds: the rest is waited for in turns of the loop
SCHEDULED_AHEAD = 64  # requests sent between two turns of the loop, at most
DRAIN_S = 5.0


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One process's share of a load. `rate` 0: the closed loop."""

    port: int
    path: str
    wire: str
    connections: int
    seconds: float
    rate: float = 0.0
    seed: int = 0


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: answers of 200 within `seconds`, everything else by status, 0 for a broken connection."""

    answered: int
    seconds: float
    sent: int
    others: dict[int, int]
    latencies: str
    busy: float  # share of a core that this process used


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    __slots__ = ("_buffer", "_load", "_transport", "due_s")

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self.due_s = -1.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, due_s: float, request: bytes) -> None:
        """Send one request that was due then."""
        self.due_s = due_s
        self._transport.write(request)

    def close(self) -> None:
        """Close it."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = _end_of_answer(self._buffer)
        if end:
            status = int(self._buffer[9:12])
            self._buffer = self._buffer[end:]
            self._load.came(self, status)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost(self)


def _end_of_answer(data: bytes) -> int:
    """Length of the answer at the start of the buffer, 0 if it is not whole yet."""
    body = data.find(b"\r\n\r\n") + 4
    if body < 4:
        return 0
    head = data[:body].lower()
    at = head.find(b"content-length:")
    if at >= 0:
        end = body + int(head[at + 15 : head.index(b"\r", at)])
        return end if len(data) >= end else 0
    last = data.find(b"0\r\n\r\n", body)  # chunked
    return last + 5 if last >= 0 else 0


class Load:
    """Connections of this process, and what came back."""

    def __init__(self, spec: LoadSpec) -> None:
        self._spec = spec
        self._requests = requests_of(spec.path, spec.wire)
        random.Random(spec.seed).shuffle(self._requests)
        self._turn = 0
        self._idle: list[_Connection] = []
        self._all: list[_Connection] = []
        self._waiting: deque[float] = deque()
        self._sent = 0
        self._others: dict[int, int] = {}
        self._latencies = array.array("f")
        self._from_s, self._until_s = 0.0, 0.0

    async def run(self) -> LoadResult:
        """The whole load."""
        loop = asyncio.get_running_loop()
        for _ in range(self._spec.connections):
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._spec.port)
            self._all.append(connection)
        began_s = time.perf_counter()
        self._from_s, self._until_s = began_s, began_s + self._spec.seconds
        cpu_s = time.process_time()
        if self._spec.rate:
            self._idle = self._all[:]
            await self._open_loop()
        else:
            for connection in self._all:
                self._ask(connection, time.perf_counter())
            await asyncio.sleep(self._until_s - time.perf_counter())
        busy = (time.process_time() - cpu_s) / (time.perf_counter() - began_s)
        return LoadResult(
            answered=len(self._latencies),
            seconds=self._spec.seconds,
            sent=self._sent,
            others=self._others,
            latencies=base64.b64encode(self._latencies.tobytes()).decode(),
            busy=busy,
        )

    def close(self) -> None:
        """Close all connections."""
        for connection in self._all[:]:
            connection.close()

    async def _open_loop(self) -> None:
        draw = random.Random(self._spec.seed)
        due_s = time.perf_counter()
        while (due_s := due_s + draw.expovariate(self._spec.rate)) < self._until_s:
            while (pause_s := due_s - time.perf_counter()) > 0:  # noqa: ASYNC110 - time is what is waited for
                await asyncio.sleep(pause_s - SPIN_S if pause_s > SPIN_S + 0.001 else 0)
            if self._sent % SCHEDULED_AHEAD == 0:
                await asyncio.sleep(0)
            if self._idle:
                self._ask(self._idle.pop(), due_s)
            else:
                self._waiting.append(due_s)
        deadline_s = time.perf_counter() + DRAIN_S
        while self._unanswered and time.perf_counter() < deadline_s:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.005)
        if self._unanswered:
            self._others[0] = self._others.get(0, 0) + self._unanswered

    @property
    def _unanswered(self) -> int:
        return len(self._waiting) + len(self._all) - len(self._idle)

    def _ask(self, connection: _Connection, due_s: float) -> None:
        self._sent += 1
        self._turn += 1
        connection.ask(due_s, self._requests[self._turn % len(self._requests)])

    def came(self, connection: _Connection, status: int) -> None:
        """An answer is there."""
        now_s = time.perf_counter()
        counted_s = connection.due_s if self._spec.rate else now_s
        if self._from_s <= counted_s < self._until_s:
            if status == 200:
                self._latencies.append(now_s - connection.due_s)
            else:
                self._others[status] = self._others.get(status, 0) + 1
        if not self._spec.rate:
            if now_s < self._until_s:
                self._ask(connection, now_s)
        elif self._waiting:
            self._ask(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        """A connection broke, or ended with the load."""
        if time.perf_counter() < self._until_s:
            self._others[0] = self._others.get(0, 0) + 1
        if connection in self._all:
            self._all.remove(connection)
        if connection in self._idle:
            self._idle.remove(connection)


def requests_of(path: str, wire: str) -> list[bytes]:
    """All questions as HTTP requests."""
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: "
    bodies = [WIRES[wire](question) for question in questions()]
    return [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]


def main(text: str) -> None:
    """Run one spec and print its result."""
    gc.disable()
    result = uvloop.run(Load(msgspec.json.decode(text, type=LoadSpec)).run())
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:  # unbuffered, a pipe takes 64 KiB and forgets the rest
        out.write(msgspec.json.encode(result) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1])
