"""Bounds on what a caller may send, enforced before anything is parsed."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.api.problems import problem


class BodyLimit:
    """ASGI middleware: a body longer than `longest` bytes is answered with 413, read no further than that."""

    def __init__(self, app: ASGIApp, longest: int) -> None:
        self._app = app
        self._longest = longest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = problem(
            413, f"body: longer than {self._longest} bytes", field="body", headers={"Connection": "close"}
        )
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self._longest:
            await refusal(scope, receive, send)
            return
        length = 0
        refused = False

        async def counted() -> Message:
            nonlocal length
            message = await receive()
            length += len(message.get("body", b""))
            return message if length <= self._longest else {"type": "http.disconnect"}

        async def replaced(message: Message) -> None:
            """Whatever the application makes of half a body, the caller is told that it was too long."""
            nonlocal refused
            if length <= self._longest:
                await send(message)
            elif not refused:
                refused = True
                await refusal(scope, receive, send)

        await self._app(scope, counted, replaced)
