"""How often one caller may call: a token bucket each, asked before the body of a request is read.

A caller is its address, or the admin key if it sends that. A key that is not known names nobody: with a new one per
call there would be no limit. Each API process counts for itself.
"""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Iterable

from prometheus_client import Counter
from starlette.types import ASGIApp, Receive, Scope, Send

from recsys.api.problems import Answered, answered, problem, retry_after

_ADMIN = b"admin"  # no address


class TokenBuckets:
    """One bucket per caller, filled at `per_s` up to `burst`; the `callers_max` callers seen last are remembered.

    Args:
        per_s: tokens that a bucket gains per second, > 0.
        burst: tokens in a full bucket, >= 1.
        callers_max: buckets kept; a forgotten caller has a full one.
    """

    def __init__(self, per_s: float, burst: float, callers_max: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._callers_max = callers_max
        self._filled: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # caller -> (tokens, seconds)

    def __len__(self) -> int:
        return len(self._filled)

    def take(self, caller: bytes, *, now_s: float) -> float:
        """Take a token: 0 if there was one, else the seconds until there is."""
        tokens, at_s = self._filled.pop(caller, (self._burst, now_s))
        tokens = min(self._burst, tokens + (now_s - at_s) * self._per_s)
        wait_s = max(0.0, (1 - tokens) / self._per_s)
        self._filled[caller] = (tokens if wait_s else tokens - 1, now_s)
        if len(self._filled) > self._callers_max:
            self._filled.popitem(last=False)
        return wait_s

    def give_back(self, caller: bytes) -> None:
        """Undo a `take` of just now."""
        if caller in self._filled:
            tokens, at_s = self._filled[caller]
            self._filled[caller] = (tokens + 1, at_s)


class CallerRates:
    """Who may call again, and who is told to wait.

    Args:
        buckets: one per caller.
        refused: counts refusals.
        admin_key: who sends it is one caller, wherever the call comes from; empty = there is none.
    """

    def __init__(self, buckets: TokenBuckets, refused: Counter, admin_key: str = "") -> None:
        self._buckets = buckets
        self._refused = refused
        self._admin_key = admin_key.encode()

    def caller(self, headers: Iterable[tuple[bytes, bytes]], host: str) -> bytes:
        """Who a request counts for: the admin, or the address it comes from."""
        if self._admin_key:
            for name, value in headers:
                if name == b"x-api-key" and hmac.compare_digest(value, self._admin_key):
                    return _ADMIN
        return host.encode()

    def refusal(self, caller: bytes) -> Answered | None:
        """429 with `Retry-After` for a caller beyond its rate."""
        wait_s = self._buckets.take(caller, now_s=time.monotonic())
        if not wait_s:
            return None
        self._refused.inc()
        detail = f"more requests than one caller may send; the next one in {wait_s:.2g} s"
        return answered(problem(429, detail, headers=retry_after(wait_s)))

    def give_back(self, caller: bytes) -> None:
        """A call that was let in, and will ask again."""
        self._buckets.give_back(caller)


class RateLimit:
    """ASGI middleware: calls of `/v1` beyond a caller's rate are refused."""

    def __init__(self, app: ASGIApp, rates: CallerRates) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            host: str = scope["client"][0] if scope.get("client") else ""
            if refusal := self._rates.refusal(self._rates.caller(scope["headers"], host)):
                await refusal.send(send)
                return
        await self._app(scope, receive, send)
