"""The hot call apart from the service: what it counts, and what it hands on."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from recsys.api import hot
from recsys.api.congestion import Congestion
from recsys.api.hot import PATH, HotRecommendations
from recsys.config import Settings
from recsys.errors import OverloadedError

BODY = b'{"k": "lenient"}'


class _Counting(Congestion):
    @property
    def in_flight(self) -> int:
        return self._in_flight


def test_a_body_that_comes_slowly_is_not_work_in_flight_and_is_handed_on_whole() -> None:
    congestion = _Counting(free=0, deadline_s=0.5)
    res: Any = SimpleNamespace(settings=Settings(), congestion=congestion)
    pieces = iter([BODY[:5], BODY[5:9], BODY[9:]])
    while_reading, while_answering, got = [], [], bytearray()

    async def receive() -> Message:
        while_reading.append(congestion.in_flight)
        piece = next(pieces)
        return {"type": "http.request", "body": piece, "more_body": piece != BODY[9:]}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while_answering.append(congestion.in_flight)
        more = True
        while more:
            message = await receive()
            got.extend(message["body"])
            more = message["more_body"]

    async def send(message: Message) -> None:
        raise AssertionError(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    scope: Scope = {"type": "http", "path": PATH, "method": "POST", "headers": headers}
    asyncio.run(HotRecommendations(app, lambda: res, longest=1_000)(scope, receive, send))
    assert while_reading == [0, 0, 0], "a slow caller would count as a slow service, and others be refused for it"
    assert while_answering == [1]
    assert bytes(got) == BODY
    assert congestion.in_flight == 0


def asked(res: Any, deadline_ms: bytes) -> int:
    """Status of a plain request."""
    body, found = b'{"history": ["i1"]}', list[int]()

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    async def app(*_: Any) -> None:
        raise AssertionError("the request is plain")

    async def send(message: Message) -> None:
        found.extend([message["status"]] if "status" in message else [])

    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers.append((b"x-deadline-ms", deadline_ms))
    scope: Scope = {"type": "http", "path": PATH, "method": "POST", "headers": headers}
    asyncio.run(HotRecommendations(app, lambda: res, longest=1_000)(scope, receive, send))
    return found[0]


class _Paused(Congestion):
    unread_s = 1.0  # type: ignore[assignment]


def test_whose_deadline_passed_in_the_socket_is_turned_away_and_reaches_no_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def recommend(*_: Any) -> bytes:
        return b"{}"

    monkeypatch.setattr(hot, "recommend", recommend)
    congestion = _Paused(free=4, deadline_s=0.5)
    res: Any = SimpleNamespace(settings=Settings(), congestion=congestion)
    assert (asked(res, b"900"), congestion.turned_away) == (503, 1)
    assert (asked(res, b"1900"), congestion.turned_away) == (200, 1)


@pytest.mark.parametrize(("deadline_ms", "lessened"), [(b"5", False), (b"500", True)])
def test_only_who_had_time_for_an_engine_tells_that_it_refuses(
    monkeypatch: pytest.MonkeyPatch, deadline_ms: bytes, lessened: bool
) -> None:
    async def recommend(*_: Any) -> bytes:
        raise OverloadedError("the engine is overloaded", retry_after_s=1.0)

    monkeypatch.setattr(hot, "recommend", recommend)
    congestion = Congestion(free=4, deadline_s=0.5)
    assert asked(SimpleNamespace(settings=Settings(), congestion=congestion), deadline_ms) == 503
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(congestion.request())
        assert congestion.admits(1e9) is not lessened
