"""Errors of the project as `application/problem+json` (RFC 9457), in one place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Send

from recsys.api.schemas import Problem
from recsys.errors import ConflictError, InputError, NotFoundError, RecsysError, UnavailableError

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"


class Answered(NamedTuple):
    """A whole answer, before it is known over what it goes out."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    @classmethod
    def json(cls, body: bytes) -> Answered:
        """200 with encoded JSON."""
        return cls(200, ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))), body)

    async def send(self, send: Send) -> None:
        """Send it over ASGI."""
        await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": self.body})


def problem(
    status: int, detail: str, *, field: str | None = None, headers: dict[str, str] | None = None, **more: Any
) -> JSONResponse:
    """One error answer. `detail` is for people, `field` names the part of the request that is wrong."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if field is not None:
        body["field"] = field
    return JSONResponse(body | more, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def retry_after(seconds: float) -> dict[str, str]:
    """`Retry-After` in whole seconds, at least one."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def describe(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route that can answer with these errors."""
    return {s: {"model": Problem, "content": {MEDIA_TYPE: {}}, "description": HTTPStatus(s).phrase} for s in statuses}


def answer_to(error: Exception) -> Response:
    """The one translation of exceptions into answers."""
    match error:
        case NotFoundError():
            return problem(404, str(error), field=error.field)
        case InputError():
            return problem(422, str(error), field=error.field)
        case ConflictError():
            return problem(409, str(error))
        case UnavailableError():
            return problem(503, str(error), headers=retry_after(error.retry_after_s))
        case RedisConnectionError() | RedisTimeoutError():
            return problem(503, "the event store cannot be reached", headers=retry_after(1))
        case RequestValidationError():
            return _validation_problem(error)
        case HTTPException():
            return problem(error.status_code, str(error.detail), headers=dict(error.headers or {}))
        case _:
            return problem(500, "an error that nobody expected; it was logged")


def _validation_problem(error: RequestValidationError) -> Response:
    errors = [
        {"field": ".".join(str(part) for part in e["loc"] if part != "body"), "reason": e["msg"]}
        for e in error.errors()
    ]
    first = errors[0]
    detail = f"{first['field']}: {first['reason']}" if first["field"] else first["reason"]
    return problem(422, detail, field=first["field"] or None, errors=errors[:20])


def answered(response: Response) -> Answered:
    """A response as it is."""
    return Answered(response.status_code, response.raw_headers, bytes(response.body))


def install(app: FastAPI) -> None:
    """Answer every exception with a problem."""

    async def handle(request: Request, error: Exception) -> Response:
        return answer_to(error)

    async def handle_unexpected(request: Request, error: Exception) -> Response:
        log.exception("unexpected_error", path=request.url.path, exc_info=error)
        return answer_to(error)

    expected = (RecsysError, RedisConnectionError, RedisTimeoutError, RequestValidationError, HTTPException)
    for kind in expected:
        app.add_exception_handler(kind, handle)
    app.add_exception_handler(Exception, handle_unexpected)
