"""The hot call apart from the service: what it counts, and what it hands on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from recsys.api.congestion import Congestion
from recsys.api.hot import PATH, HotRecommendations
from recsys.config import Settings

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
