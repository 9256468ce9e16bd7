"""Requests answered on their connection get the bytes of uvicorn's way, whatever is sent and in what pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from recsys.api import direct, hot, rate_limit
from recsys.api.congestion import Congestion
from recsys.api.connections import BoundedConnection
from recsys.api.direct import DirectConnection
from recsys.api.heads import read_head
from recsys.api.hot import HotRecommendations
from recsys.api.metrics import ApiMetrics, Measure
from recsys.api.query import Query
from recsys.api.rate_limit import CallerRates, RateLimit, TokenBuckets
from recsys.config import Settings
from recsys.errors import InputError, OverloadedError

LONGEST = 400
GOOD = b'{"user_id": "u", "k": 3}'


class _Transport:
    """Writes to a list."""

    def __init__(self) -> None:
        self.sent = b""
        self.writes = 0
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed, data
        self.sent += data
        self.writes += 1

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 5) if name in ("peername", "sockname") else None


class _Congestion(Congestion):
    """Refuses whoever has less than half a second."""

    wait_s = 0.4567

    def admits(self, budget_s: float) -> bool:
        return budget_s >= 0.5

    @property
    def in_flight(self) -> int:
        return self._in_flight


async def _recommend(query: Query, budget_s: float, res: Any) -> bytes:
    """Says what was understood."""
    if query.user_id != "at once":
        released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(released.set_result, None)
        await released
    match query.user_id:
        case "wrong":
            raise InputError("k: wrong", field="k")
        case "refused":
            raise OverloadedError("no more", retry_after_s=2.5)
        case "broken":
            raise RuntimeError("nobody expected this")
    return msgspec.json.encode({"query": query, "budget_s": budget_s})


async def _framework(scope: Scope, receive: Receive, send: Send) -> None:
    """Says what it got."""
    body, more = b"", True
    while more:
        message: Message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    found = msgspec.json.encode({"method": scope["method"], "path": scope["path"], "body": body})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(found))]
    await send({"type": "http.response.start", "status": 422, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else found})


class _Process:
    """One API process without sockets, Redis and engines."""

    def __init__(self, kind: type[BoundedConnection], burst: int | None) -> None:
        self.metrics = ApiMetrics()
        self.congestion = _Congestion(free=0, deadline_s=0.5)
        res: Any = SimpleNamespace(settings=Settings(), congestion=self.congestion, metrics=self.metrics)
        self.buckets = TokenBuckets(1e-6, burst or 1, 100)
        rates = CallerRates(self.buckets, self.metrics.rate_limited) if burst else None
        answering = HotRecommendations(_framework, lambda: res, longest=LONGEST, rates=rates)
        app = Measure(RateLimit(answering, rates) if rates else answering, metrics=self.metrics)
        config = Config(app, access_log=False)
        config.load()
        state = ServerState()
        state.default_headers = [(b"server", b"here")]
        self.transport = cast(Any, _Transport())
        self.connection = kind(config, state, {direct.STATE: answering}, asyncio.get_running_loop())
        self.connection.connection_made(self.transport)

    async def feed(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            if not self.transport.closed:
                self.connection.data_received(piece)
            await quiet()

    def counted(self) -> dict[tuple[str, str], float]:
        """Answers by route and status."""
        families = {family.name: family for family in self.metrics.registry.collect()}
        return {(s.labels["route"], s.labels["status"]): s.value for s in families["recsys_api_requests"].samples}


async def quiet() -> None:
    """Until nothing is left to do."""
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _stubs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hot, "recommend", _recommend)
    monkeypatch.setattr(hot.log, "exception", lambda *args, **kwargs: None)
    monkeypatch.setattr(rate_limit, "time", SimpleNamespace(monotonic=lambda: 0.0))
    yield
    BoundedConnection._sweeping = None  # it belongs to a loop that is gone


def request(body: bytes = GOOD, *more: bytes, line: bytes = b"POST /v1/recommendations HTTP/1.1") -> bytes:
    lines = [line, b"Host: x", b"Content-Type: application/json", b"Content-Length: %d" % len(body), *more]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


LINES = [
    b"POST /v1/recommendations HTTP/1.1",
    b"POST /v1/recommendations?x=1 HTTP/1.1",
    b"POST /v1/recommendations HTTP/1.0",
    b"post /v1/recommendations HTTP/1.1",
    b"GET /v1/recommendations HTTP/1.1",
    b"HEAD /v1/recommendations HTTP/1.1",
    b"POST /v1/events HTTP/1.1",
    b"POST /healthz HTTP/1.1",
    b"POST  /v1/recommendations HTTP/1.1",
]
HEADERS = [
    b"X-Deadline-Ms: 800",
    b"X-Deadline-Ms: 300",
    b"x-deadline-ms: -1",
    b"X-Deadline-Ms: nonsense",
    b"X-Api-Key: a",
    b"X-Api-Key: ",
    b"X-Forwarded-For: 10.0.0.7",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: Upgrade\r\nUpgrade: h2c",
    b"Expect: 100-continue",
    b"Content-Type: text/plain",
    b"Content-Length: 7",
    b"Transfer-Encoding: chunked",
    b"X-Note: \xff\xe4",
    b"No colon",
    b"X: " + b"y" * 5_000,
]
BODIES = [
    GOOD,
    b'{"user_id": "at once"}',
    b'{"user_id": "wrong"}',
    b'{"user_id": "refused"}',
    b'{"user_id": "broken"}',
    b'{"history": ["\xc3\xa4", "b"], "fallback": "never"}',
    b'{"user_id": "u", "k": "5"}',
    b'{"user_id": "u\\u0001"}',
    b"{",
    b"[]",
    b"",
    b"\xff\xfe",
    b'{"user_id": "' + b"u" * LONGEST + b'"}',
    request(),
]

requests = st.builds(
    lambda body, more, line: request(body, *more, line=line),
    st.sampled_from(BODIES) | st.just(GOOD),
    st.lists(st.sampled_from(HEADERS), max_size=2) | st.just([]),
    st.just(LINES[0]) | st.sampled_from(LINES),
)
streams = st.lists(requests | st.just(request()) | st.sampled_from([b"\r\n", b"\x00junk"]), min_size=1, max_size=5)


def cut(stream: bytes, at: list[float]) -> list[bytes]:
    """A stream in pieces."""
    ends = sorted({*(int(share * len(stream)) for share in at), len(stream)} - {0})
    return [stream[start:end] for start, end in zip([0, *ends], ends, strict=False)]


async def assert_same(pieces: list[bytes], burst: int | None) -> None:
    """Both ways send, count and keep the same."""
    plain, ordinary = (_Process(kind, burst) for kind in (DirectConnection, BoundedConnection))
    await plain.feed(pieces)
    await ordinary.feed(pieces)
    assert plain.transport.sent == ordinary.transport.sent
    assert plain.transport.closed == ordinary.transport.closed
    assert plain.counted() == ordinary.counted()
    assert plain.buckets._filled == ordinary.buckets._filled
    assert plain.congestion.in_flight == ordinary.congestion.in_flight
    assert plain.connection.server_state.total_requests == ordinary.connection.server_state.total_requests


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(streams, st.lists(st.floats(0, 1), max_size=4), st.booleans(), st.sampled_from([None, 2, 50]))
def test_both_ways_give_the_same_bytes(stream: list[bytes], at: list[float], whole: bool, burst: int | None) -> None:
    asyncio.run(assert_same(stream if whole else cut(b"".join(stream), at), burst))


def test_a_request_inside_of_a_body_is_a_body() -> None:
    outer = request(request())
    for ahead in (b"", request(), request(b"{")):
        for cut_at in (len(outer) - len(request()), 3, len(outer) - 1):
            asyncio.run(assert_same([ahead + outer[:cut_at], outer[cut_at:], request()], None))


def test_a_plain_request_goes_its_short_way_with_one_write() -> None:
    async def ask() -> None:
        process = _Process(DirectConnection, None)
        stream = request()
        await process.feed([stream, stream, stream[:-5], stream[-5:]])
        assert cast(object, process.connection.cycle) is None, "uvicorn saw a request"
        assert process.transport.sent.count(b"HTTP/1.1 200 OK") == process.transport.writes == 3

    asyncio.run(ask())


def test_what_comes_before_the_answer_waits_its_turn() -> None:
    async def ask() -> None:
        process = _Process(DirectConnection, None)
        for n in (1, 2, 3):
            process.connection.data_received(request(b'{"user_id": "u%d"}' % n))
        assert process.transport.sent == b""
        flow = cast(Any, process.connection.flow)
        assert flow.read_paused
        await quiet()
        await quiet()
        assert [process.transport.sent.find(b'"u%d"' % n) > 0 for n in (1, 2, 3)] == [True] * 3
        assert process.transport.sent.find(b'"u1"') < process.transport.sent.find(b'"u2"')
        assert not flow.read_paused

    asyncio.run(ask())


@pytest.mark.parametrize("begun", [request(), request()[:-3]], ids=["whole", "half"])
def test_a_shutdown_lets_what_has_begun_end_and_says_that_it_closes(begun: bytes) -> None:
    async def ask() -> None:
        process = _Process(DirectConnection, None)
        process.connection.data_received(begun)
        process.connection.shutdown()
        assert not process.transport.closed
        await process.feed([request()[len(begun) :]])
        assert b"\r\nconnection: close\r\n" in process.transport.sent
        assert process.transport.closed
        idle = _Process(DirectConnection, None)
        idle.connection.shutdown()
        assert idle.transport.closed

    asyncio.run(ask())


@pytest.mark.parametrize("begun", [request(), request()[:-3]], ids=["whole", "half"])
def test_a_caller_who_leaves_gets_nothing_and_leaves_nothing(begun: bytes) -> None:
    async def ask() -> None:
        process = _Process(DirectConnection, None)
        process.connection.data_received(begun)
        process.transport.closed = True
        process.connection.connection_lost(None)
        await quiet()
        assert process.transport.sent == b""
        assert process.congestion.in_flight == 0
        assert not process.connection.server_state.connections

    asyncio.run(ask())


def test_heads_are_read_by_the_parser_of_the_server() -> None:
    def head(*more: bytes) -> bytes:
        return request(GOOD, *more)[: -len(GOOD)]

    found = read_head(head(b"X-Deadline-Ms: 70", b"Connection: close"))
    assert found is not None
    assert (found.body_bytes, found.deadline, found.keep_alive) == (len(GOOD), b"70", False)
    for wrong in (
        b"No colon",
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
        b"Content-Type: text/html",
        b"X: \x01",
    ):
        assert read_head(head(wrong)) is None, wrong
