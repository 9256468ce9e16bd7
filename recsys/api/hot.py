"""The hot call without a framework: decoded and encoded by msgspec, answered before routing and pydantic.

It is called in two ways that share what they do: by its connection, if the request is whole and plain, and as an ASGI
app otherwise. Anything out of the ordinary (another method, another content type, a body that is too long, of unknown
length or not plainly right) goes on to the application with its body intact, so that there is one place that knows the
errors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.api.deadline import budget_s
from recsys.api.deps import Resources
from recsys.api.heads import TARGET, Head, json_length
from recsys.api.problems import Answered, answer_to, answered
from recsys.api.query import Query, decode_query
from recsys.api.rate_limit import CallerRates
from recsys.api.recommend import ANSWER_MARGIN_S, recommend
from recsys.api.stepping import Stepping
from recsys.errors import InputError, OverloadedError, RecsysError

log = structlog.get_logger(__name__)

PATH = TARGET.decode()


class _Route:
    """Stands in for the framework's route in metrics."""

    path = PATH


class HotRecommendations:
    """Answers plainly right `POST /v1/recommendations`: an ASGI app around another one, and `start` for connections.

    Args:
        app: gets everything else.
        resources: of this process, once it has started.
        longest: bytes of the longest body that is read here.
        rates: asked first by `start`; the ASGI app stands behind whoever asks them.
    """

    def __init__(
        self, app: ASGIApp, resources: Callable[[], Resources], *, longest: int, rates: CallerRates | None = None
    ) -> None:
        self._app = app
        self._resources = resources
        self._rates = rates
        self.longest = longest

    def waits(self, head: Head) -> bool:
        """Whether the rest of a body is waited for; False: it might be refused, which is done before the body."""
        return self._rates is None and _congested(head.deadline, self._resources()) is None

    def start(self, head: Head, body: bytes, host: str, answer: Callable[[Answered], None]) -> bool:
        """Answer a whole request without ASGI.

        Args:
            head: of the request.
            body: as long as the head declares.
            host: address of the connection's other end.
            answer: called once with what to send, possibly before this returns.

        Returns:
            False if the request is not plain: nothing was done, and `answer` will not be called.
        """
        began = time.perf_counter()
        res = self._resources()

        def finish(found: Answered) -> None:
            answer(found)
            res.metrics.requests.count(PATH, found.status, time.perf_counter() - began)

        caller = b""
        if self._rates is not None:
            if head.forwarded:  # who that is takes the proxies that are trusted
                return False
            caller = self._rates.caller(head.headers, host)
            if refusal := self._rates.refusal(caller):
                res.metrics.requests.count("unmatched", refusal.status, time.perf_counter() - began)
                answer(refusal)
                return True
        if refusal := _congested(head.deadline, res):
            res.congestion.turned_away += 1
            finish(refusal)
            return True
        query = decode_query(body)
        if query is None:
            if self._rates is not None:
                self._rates.give_back(caller)  # it is asked again
            return False
        Stepping(_answer(query, head.deadline, res), finish)
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not 0 < json_length(headers) <= self.longest:
            await self._app(scope, receive, send)
            return
        res = self._resources()
        deadline = headers.get(b"x-deadline-ms")
        if refusal := _congested(deadline, res):
            res.congestion.turned_away += 1
            scope["route"] = _Route
            await refusal.send(send)
            return
        messages, body = await _read(receive)  # uncounted: a caller who sends slowly says nothing about this process
        query = decode_query(body) if messages[-1]["type"] == "http.request" else None
        if query is not None:
            scope["route"] = _Route
            await (await _answer(query, deadline, res)).send(send)
            return
        with res.congestion.request():
            await self._app(scope, _again(messages, receive), send)


async def _answer(query: Query, deadline: bytes | None, res: Resources) -> Answered:
    with res.congestion.request() as visit:
        left_s = 0.0
        try:
            left_s = budget_s(deadline, res)
            return Answered.json(await recommend(query, left_s, res))
        except Exception as error:
            if not isinstance(error, RecsysError):
                log.exception("unexpected_error", path=PATH)
            # who came with no time for an engine says nothing about engines
            visit.refused = isinstance(error, OverloadedError) and left_s > ANSWER_MARGIN_S
            return answered(answer_to(error))


def _congested(deadline: bytes | None, res: Resources) -> Answered | None:
    """The refusal, if there is no chance to answer in time."""
    try:
        left_s = budget_s(deadline, res)
    except InputError:
        return None  # told only after the body was found to be right
    if left_s > 0 and res.congestion.admits(left_s):
        return None
    wait_s = res.congestion.wait_s
    return _refusal(round(wait_s * 1e3), max(1, math.ceil(wait_s)))


@lru_cache(maxsize=256)
def _refusal(wait_ms: int, retry_after_s: int) -> Answered:
    """Thousands a second in a crowd."""
    return answered(answer_to(OverloadedError(f"expected wait {wait_ms} ms", retry_after_s=retry_after_s)))


async def _read(receive: Receive) -> tuple[list[Message], bytes]:
    """All messages of the body, which the server keeps to its declared length."""
    message = await receive()
    if not message.get("more_body"):
        return [message], message.get("body", b"")
    messages = [message]
    while messages[-1]["type"] == "http.request" and messages[-1].get("more_body"):
        messages.append(await receive())
    return messages, b"".join(message.get("body", b"") for message in messages)


def _again(messages: list[Message], receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Messages that were read already, then the rest."""
    left = iter(messages)

    async def replay() -> Message:
        message = next(left, None)
        return message if message is not None else await receive()

    return replay
