"""Callers that are slow, many, gone or long-winded: each gets a clear end, and nothing of them stays."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.e2e

READ_TIMEOUT_S = 1.0
CONNECTIONS_MAX = 300
HEAD = b"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, start_service: Any) -> Iterator[Any]:
    """A service with little patience."""
    with start_service(
        tmp_path_factory.mktemp("guarded"),
        RECSYS_API__READ_TIMEOUT_S=str(READ_TIMEOUT_S),
        RECSYS_API__CONNECTIONS_MAX=str(CONNECTIONS_MAX),
    ) as running:
        yield running


def descriptors(service: Any) -> int:
    return len(list(Path(f"/proc/{service.pid('api')}/fd").iterdir()))


def in_flight(service: Any) -> float:
    text = httpx.get(f"{service.base}/metrics", timeout=10).text
    return float(text.split("\nrecsys_api_engine_in_flight ", 1)[1].split("\n", 1)[0])


def answers(service: Any) -> bool:
    answer = httpx.post(f"{service.base}/v1/recommendations", json={"history": ["i1"], "k": 3}, timeout=10)
    return answer.status_code == 200 and answer.json()["fallback"] is None


def until_closed(line: socket.socket) -> bytes:
    line.settimeout(15)
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := line.recv(65_536):
            found += piece
    return found


@pytest.mark.parametrize(
    "sent",
    [b"POST /v1/rec", HEAD, HEAD + b"Content-Length: 50\r\n\r\n", HEAD + b'Content-Length: 50\r\n\r\n{"user_id"'],
    ids=["half a line", "half the headers", "no body", "half a body"],
)
def test_a_request_that_never_ends_is_answered_408_and_closed(guarded: Any, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", guarded.port)) as line:
        line.sendall(sent)
        found = until_closed(line)
    assert found.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in found
    assert b"not complete within 1 s" in found


def test_a_connection_that_says_nothing_is_closed(guarded: Any) -> None:
    with socket.create_connection(("127.0.0.1", guarded.port)) as line:
        assert until_closed(line) == b""


def test_slow_after_a_good_request_is_slow_too(guarded: Any) -> None:
    body = b'{"history": ["i1"], "k": 1}'
    with socket.create_connection(("127.0.0.1", guarded.port)) as line:
        line.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert line.recv(65_536).startswith(b"HTTP/1.1 200")
        line.sendall(b"GET /hea")
        assert b"HTTP/1.1 408 " in until_closed(line)


def test_drops_do_not_buy_time(guarded: Any) -> None:
    """One byte now and then (slowloris) is no progress."""
    began_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", guarded.port)) as line:
        line.sendall(HEAD)
        with contextlib.suppress(OSError):
            for n in range(300):
                line.sendall(b"X-%d: 1\r\n" % n)
                time.sleep(0.05)
    assert time.monotonic() - began_s < 10


def test_headers_without_end_are_cut_off(guarded: Any) -> None:
    with socket.create_connection(("127.0.0.1", guarded.port)) as line:
        line.sendall(HEAD)
        with contextlib.suppress(OSError):
            for n in range(2_000):
                line.sendall(b"X-%d: " % n + b"x" * 20_000 + b"\r\n")
            pytest.fail("forty megabytes of headers were taken")


def test_thousands_of_slow_connections_lock_nobody_out_and_leave_nothing(guarded: Any, eventually: Any) -> None:
    assert answers(guarded)
    before = descriptors(guarded)
    slow = []
    try:
        for n in range(2_000):
            line = socket.create_connection(("127.0.0.1", guarded.port), timeout=10)
            line.sendall(HEAD[: 20 + n % 50])
            slow.append(line)
            if n % 400 == 399:
                assert answers(guarded)
                assert descriptors(guarded) <= before + CONNECTIONS_MAX + 10
    finally:
        for line in slow:
            line.close()
    eventually(lambda: descriptors(guarded) <= before + 2, what="descriptors back at the start value")
    assert answers(guarded)


async def _leave_early(port: int, count: int) -> None:
    body = b'{"history": ["i1", "i2"], "k": 50}'

    async def one(n: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        writer.write(request[: len(request) - n % 3 * 10])  # some with all of the request, some with a part of it
        await writer.drain()
        writer.transport.abort()

    for start in range(0, count, 50):
        await asyncio.gather(*(one(n) for n in range(start, start + 50)))


def test_callers_that_leave_in_the_middle_leave_nothing(guarded: Any, eventually: Any) -> None:
    assert answers(guarded)
    before = descriptors(guarded)
    asyncio.run(_leave_early(guarded.port, 600))
    eventually(lambda: descriptors(guarded) <= before + 2, what="descriptors back at the start value")
    eventually(lambda: in_flight(guarded) == 0, what="no question without an answer")
    assert answers(guarded)
    log = (guarded.folder / "api.log").read_text()
    assert "Traceback" not in log, log[-3000:]


def test_who_asks_and_reads_nothing_is_cut_off(guarded: Any, eventually: Any) -> None:
    assert answers(guarded)
    before, silent = descriptors(guarded), []
    try:
        for _ in range(10):
            line = socket.socket()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            line.settimeout(2)
            line.connect(("127.0.0.1", guarded.port))
            silent.append(line)
            line.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 200)  # more than buffers hold
        eventually(lambda: descriptors(guarded) <= before + 2, what="descriptors back at the start value")
    finally:
        for line in silent:
            line.close()
    assert answers(guarded)


def test_one_request_gets_one_answer_though_its_body_never_comes(guarded: Any) -> None:
    with socket.create_connection(("127.0.0.1", guarded.port)) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n")
        found = until_closed(line)
    assert found.startswith(b"HTTP/1.1 200")
    assert found.count(b"HTTP/1.1 ") == 1


def test_a_deadline_that_has_passed_is_named(guarded: Any) -> None:
    for deadline in ("0", "-1", "-1e9"):
        answer = httpx.post(
            f"{guarded.base}/v1/recommendations",
            json={"history": ["i1"]},
            headers={"X-Deadline-Ms": deadline},
            timeout=10,
        )
        assert (answer.status_code, answer.json()["field"]) == (422, "X-Deadline-Ms")
        assert "above 0" in answer.json()["detail"]


def test_the_limit_on_open_files_leaves_room(guarded: Any) -> None:
    limits = Path(f"/proc/{guarded.pid('api')}/limits").read_text()
    soft = next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3]
    assert soft == "unlimited" or int(soft) >= CONNECTIONS_MAX + 100
