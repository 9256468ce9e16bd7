"""Typed client of `/v1`, on the standard library: every call has a time-out and every failure says what to do."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, TypeVar

import msgspec

from dashboard.answers import (
    Comparison,
    Events,
    Experts,
    ExpertUsers,
    Models,
    Popular,
    Problem,
    Recommendations,
    Router,
    TrafficComparison,
    User,
)
from dashboard.system_answers import DeadLetterList, System

T = TypeVar("T")

SLOW_S = 40.0  # calls that the service itself bounds by half a minute
BODY_BYTES_MAX = 64 * 1024 * 1024  # two minutes of snapshots of several engines are a few megabytes

# The service is addressed directly, whatever proxy the environment names for the rest of the world.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ApiError(Exception):
    """A call did not succeed; the text is fit to be shown."""


class UnreachableError(ApiError):
    """Nobody answered in time."""


class RefusedError(ApiError):
    """The service answered with an error status."""

    def __init__(self, status: int, problem: Problem, *, retry_after_s: float | None = None) -> None:
        self.status = status
        self.problem = problem
        self.retry_after_s = retry_after_s
        what = problem.detail or problem.title or http.client.responses.get(status, "error")
        super().__init__(f"{what} (HTTP {status})")

    @property
    def wrong_key(self) -> bool:
        """The admin key is missing or not the right one."""
        return self.status in (401, 403)


class UnexpectedAnswerError(ApiError):
    """Something answered, but not this service, or another version of it."""


class Client:
    """One service, by its base URL.

    Args:
        base_url: for example `http://127.0.0.1:8000`.
        timeout_s: longest wait for a connection and for each read.
    """

    def __init__(self, base_url: str, *, timeout_s: float = 3.0) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url: must start with http:// or https://, got {base_url!r}")
        self.base_url = base_url.rstrip("/")
        self.timeout_s = timeout_s

    def experts(self, *, window_s: float) -> Experts:
        """Load snapshots of the last `window_s` seconds."""
        return self._call("GET", f"/v1/experts?window_s={window_s:g}", Experts)

    def expert_users(self) -> ExpertUsers:
        """Which users each expert works for: a sample that the service takes at most twice a minute."""
        return self._call("GET", "/v1/experts/users", ExpertUsers, timeout_s=3 * self.timeout_s)

    def system(self) -> System:
        """Processes, readers of the stream, dead letters, Redis."""
        return self._call("GET", "/v1/system", System)

    def dead_letters(self, *, key: str, count: int = 20) -> DeadLetterList:
        """The newest entries that could not be applied; needs the admin key."""
        return self._call("GET", f"/v1/dead-letters?count={count}", DeadLetterList, headers={"X-Api-Key": key})

    def router(self) -> Router:
        """The routing policy wanted, and what each engine runs."""
        return self._call("GET", "/v1/router", Router)

    def set_router(
        self,
        *,
        policy: str,
        key: str,
        capacity_factor: float | None = None,
        quality_budget: dict[str, float] | None = None,
    ) -> Router:
        """Switch the live policy; needs the admin key. A broken `quality_budget` takes the switch back."""
        body: dict[str, Any] = {"policy": policy}
        if capacity_factor is not None:
            body["capacity_factor"] = capacity_factor
        if quality_budget is not None:
            body["quality_budget"] = quality_budget
        return self._call("PUT", "/v1/router", Router, body=body, headers={"X-Api-Key": key})

    def emulate_devices(self, lane_us: float, *, for_s: float, key: str) -> Router:
        """Give each expert an emulated device that takes `lane_us` microseconds a slot, for `for_s` seconds; 0 = none.

        Needs the admin key.
        """
        body = {"lane_us": lane_us, "inject_for_s": for_s}
        return self._call("PUT", "/v1/router", Router, body=body, headers={"X-Api-Key": key})

    def models(self) -> Models:
        """Model versions in service and on offer."""
        return self._call("GET", "/v1/models", Models)

    def activate(self, version: str, *, key: str) -> Models:
        """Serve another version; returns when every engine does. Needs the admin key."""
        path = f"/v1/models/{urllib.parse.quote(version, safe='')}/activate"
        return self._call("POST", path, Models, headers={"X-Api-Key": key}, timeout_s=SLOW_S)

    def rollback(self, *, key: str) -> Models:
        """Serve the version before; needs the admin key."""
        return self._call("POST", "/v1/models/rollback", Models, headers={"X-Api-Key": key}, timeout_s=SLOW_S)

    def recommend(self, request: dict[str, Any]) -> Recommendations:
        """A list; `request` is the body of `POST /v1/recommendations`."""
        return self._call("POST", "/v1/recommendations", Recommendations, body=request)

    def compare(self, request: dict[str, Any], policies: tuple[str, str]) -> Comparison:
        """One request under two policies; `request` as in `recommend`."""
        return self._call("POST", "/v1/router/compare", Comparison, body={"query": request, "policies": policies})

    def compare_traffic(self, policies: tuple[str, str], *, seconds: float, most: int, key: str) -> TrafficComparison:
        """A sample of the traffic of the last `seconds` under two policies; needs the admin key."""
        body = {"policies": policies, "seconds": seconds, "most": most}
        path, headers = "/v1/router/compare/traffic", {"X-Api-Key": key}
        return self._call("POST", path, TrafficComparison, body=body, headers=headers, timeout_s=SLOW_S)

    def send_event(self, event: dict[str, Any]) -> Events:
        """Report one interaction."""
        return self._call("POST", "/v1/events", Events, body={"events": [{"type": "interaction", **event}]})

    def user(self, user_id: str) -> User | None:
        """What is known of a user; None if nothing is."""
        try:
            return self._call("GET", f"/v1/users/{urllib.parse.quote(user_id, safe='')}", User)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def popular(self, *, window: str = "24h", k: int = 10) -> Popular:
        """Most used items."""
        return self._call("GET", f"/v1/popular?{urllib.parse.urlencode({'window': window, 'k': k})}", Popular)

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether the service is ready, and what `/readyz` says in its own words."""
        status, body, _ = self._exchange("GET", "/readyz")
        try:
            return status == 200, msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, msgspec.ValidationError):
            raise UnexpectedAnswerError(f"{self.base_url}/readyz answered no JSON (HTTP {status})") from None

    def _call(
        self,
        method: str,
        path: str,
        type_: type[T],
        *,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> T:
        status, raw, retry_after_s = self._exchange(method, path, body=body, headers=headers, timeout_s=timeout_s)
        if status >= 400:
            raise RefusedError(status, _problem(raw), retry_after_s=retry_after_s)
        try:
            return msgspec.json.decode(raw, type=type_)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            where = f"{self.base_url}{path.partition('?')[0]}"
            raise UnexpectedAnswerError(f"{where} is not what this board knows: {error}") from None

    def _exchange(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> tuple[int, bytes, float | None]:
        data = None if body is None else msgspec.json.encode(body)
        request = urllib.request.Request(self.base_url + path, data=data, method=method)
        request.add_header("Accept", "application/json")
        if data is not None:
            request.add_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            if not value.isascii() or not value.isprintable():
                raise RefusedError(401, Problem(detail=f"{name} may hold printable ASCII only"))
            request.add_header(name, value)
        try:
            try:
                response = _opener.open(request, timeout=timeout_s or self.timeout_s)
            except urllib.error.HTTPError as error:
                response = error  # a refusal is an answer, and reading it can fail as well
            with response:
                retry_after_s = _seconds(response.headers.get("Retry-After"))
                return int(response.status), response.read(BODY_BYTES_MAX), retry_after_s
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise UnreachableError(f"No answer from {self.base_url} ({reason})") from None


def _problem(raw: bytes) -> Problem:
    try:
        return msgspec.json.decode(raw, type=Problem)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return Problem(detail=raw[:200].decode(errors="replace").strip())


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after is not None and retry_after.isdigit() else None
