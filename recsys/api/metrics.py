"""Prometheus metrics of the API process.

recsys_api_requests_total{route,status}    requests by route template and status
recsys_api_latency_seconds{route}          first byte of the request to the last of the answer
recsys_api_fallbacks_total{reason}         recommendations from popular items
recsys_api_engine_in_flight                questions without an answer
recsys_api_engines_ready                   engines that rank
recsys_api_engine_retries_total            questions asked of another engine because the first one was lost
recsys_api_events_total{outcome}           accepted, duplicate, rejected
recsys_api_impressions_dropped_total       impressions that found the queue full
recsys_api_rate_limited_total              calls beyond their caller's rate
"""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class ApiMetrics:
    """All of them, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "recsys_api_requests", "Requests by route and status", ["route", "status"], registry=registry
        )
        self.latency = Histogram(
            "recsys_api_latency_seconds", "Request to answer", ["route"], buckets=_SECONDS, registry=registry
        )
        self.fallbacks = Counter(
            "recsys_api_fallbacks", "Recommendations from popular items", ["reason"], registry=registry
        )
        self.in_flight = Gauge("recsys_api_engine_in_flight", "Questions without an answer", registry=registry)
        self.engines_ready = Gauge("recsys_api_engines_ready", "Engines that rank", registry=registry)
        self.engine_retries = Counter(
            "recsys_api_engine_retries", "Asked of another engine, the first was lost", registry=registry
        )
        self.events = Counter("recsys_api_events", "Events by what became of them", ["outcome"], registry=registry)
        self.rate_limited = Counter("recsys_api_rate_limited", "Calls beyond their caller's rate", registry=registry)
        self.impressions_dropped = Counter("recsys_api_impressions_dropped", "Found the queue full", registry=registry)


class Measure:
    """ASGI middleware: counts and times requests by route template, never by raw path."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics
        self._known: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            requests, latency = self._children(route, status)
            requests.inc()
            latency.observe(time.perf_counter() - began)

    def _children(self, route: str, status: int) -> tuple[Counter, Histogram]:
        """The two of a route and status; finding them by their labels costs more than counting."""
        found = self._known.get((route, status))
        if found is None:
            found = self._metrics.requests.labels(route, status), self._metrics.latency.labels(route)
            self._known[route, status] = found
        return found
