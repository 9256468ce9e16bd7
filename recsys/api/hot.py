"""The hot call without a framework: decoded and encoded by msgspec, answered before routing and pydantic.

Anything out of the ordinary (another method, another content type, a body that is too long, of unknown length or not
plainly right) goes on to the application with its body intact, so that there is one place that knows the errors.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.api import limits
from recsys.api.deps import Resources
from recsys.api.problems import answer_to
from recsys.api.query import Query, decode_query
from recsys.api.recommend import recommend
from recsys.errors import InputError, OverloadedError, RecsysError

log = structlog.get_logger(__name__)

PATH = "/v1/recommendations"


class _Route:
    """Stands in for the framework's route in metrics."""

    path = PATH


class HotRecommendations:
    """ASGI app around another one: answers plainly right `POST /v1/recommendations` itself.

    Args:
        app: gets everything else.
        resources: of this process, once it has started.
        longest: bytes of the longest body that is read here.
    """

    def __init__(self, app: ASGIApp, resources: Callable[[], Resources], *, longest: int) -> None:
        self._app = app
        self._resources = resources
        self._longest = longest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        plain = headers.get(b"content-type", b"").startswith(b"application/json")
        if not plain or not 0 < _length(headers) <= self._longest:
            await self._app(scope, receive, send)
            return
        res = self._resources()
        budget_s = _budget_s(headers.get(b"x-deadline-ms"), res)
        if budget_s is not None and not res.congestion.admits(budget_s):
            scope["route"] = _Route
            wait_s = res.congestion.wait_s
            refusal = OverloadedError(f"expected wait {wait_s * 1e3:.0f} ms", retry_after_s=max(0.05, wait_s))
            await answer_to(refusal)(scope, receive, send)
            return
        messages, body = await _read(receive)  # uncounted: a caller who sends slowly says nothing about this process
        query = decode_query(body) if messages[-1]["type"] == "http.request" else None
        with res.congestion.request() as visit:
            if query is None:
                await self._app(scope, _again(messages, receive), send)
                return
            scope["route"] = _Route
            visit.refused = await self._answer(query, scope, receive, send, headers.get(b"x-deadline-ms"), res)

    async def _answer(
        self, query: Query, scope: Scope, receive: Receive, send: Send, deadline: bytes | None, res: Resources
    ) -> bool:
        """Answer; True if an engine refused."""
        try:
            answer = await recommend(query, _deadline_s(deadline, res), res)
        except Exception as error:
            if not isinstance(error, RecsysError):
                log.exception("unexpected_error", path=PATH)
            await answer_to(error)(scope, receive, send)
            return isinstance(error, OverloadedError)
        await _send_json(send, answer)
        return False


def _length(headers: dict[bytes, bytes]) -> int:
    """Bytes of the body as declared, 0 if they are not."""
    declared = headers.get(b"content-length", b"")
    return int(declared) if declared.isdigit() else 0


def _deadline_s(header: bytes | None, res: Resources) -> float:
    config = res.settings.api
    text = None if header is None else header.decode("latin-1")
    return limits.deadline_s(text, default_ms=config.deadline_ms, most_ms=config.deadline_ms_max)


def _budget_s(header: bytes | None, res: Resources) -> float | None:
    """Time for the answer, or None if the header is wrong, which is told only after the body was found to be right."""
    try:
        return _deadline_s(header, res)
    except InputError:
        return None


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


async def _send_json(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
