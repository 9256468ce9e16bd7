"""Bare ASGI under uvicorn: an echo of the same bytes, and the ranker on whatever arrived while it last ran.

The first is what the HTTP server alone can do, the second what is left of it with the model and nothing else: no
deadlines, no checks, no metrics, no state, and a model that blocks the event loop.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.bench.serving.questions import TOP, questions

BATCH = 64


class Asked(msgspec.Struct):
    """A question."""

    user_id: int
    candidates: list[int]


class Best(msgspec.Struct):
    """Its answer."""

    items: list[int]
    scores: list[float]


_decode = msgspec.json.Decoder(Asked).decode
_encode = msgspec.json.Encoder().encode
_JSON = (b"content-type", b"application/json")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _body(receive: Receive) -> bytes:
    message: Message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


async def _answer(send: Send, body: bytes) -> None:
    head = [(b"content-length", str(len(body)).encode()), _JSON]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Decodes the question and encodes an answer of the right size: the ceiling."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    _decode(await _body(receive))
    await _answer(send, _encode(_ALWAYS))


_ALWAYS = Best(list(questions(1)[0].candidates[:TOP]), [0.12345678 + n for n in range(TOP)])


class Drain:
    """ASGI app that ranks in the event loop, all that this turn of the loop has read at once."""

    def __init__(self, *, split: bool = False) -> None:
        from recsys.bench.serving.ranker import SmallRanker

        self._ranker = SmallRanker(split=split)
        self._waiting: list[tuple[Asked, asyncio.Future[Best]]] = []
        self._due = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Best] = loop.create_future()
        self._waiting.append((_decode(await _body(receive)), future))
        if not self._due:
            self._due = True
            loop.call_soon(self._rank, loop)
        await _answer(send, _encode(await future))

    def _rank(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        if not batch:
            self._due = False
            return
        found = self._ranker.best([asked.user_id for asked, _ in batch], [asked.candidates for asked, _ in batch])
        for (_, future), items, scores in zip(batch, *found, strict=True):
            if not future.done():
                future.set_result(Best(items, scores))
        loop.call_soon(self._rank, loop)


def app() -> ASGIApp:
    """The one that the environment names: echo, drain or split."""
    kind = os.environ["BENCH_APP"]
    chosen: Any = echo if kind == "echo" else Drain(split=kind == "split")
    return chosen  # type: ignore[no-any-return]
