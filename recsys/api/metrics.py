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
from bisect import bisect_left
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.buckets import cumulated

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class _Tally:
    """Requests of one route and status."""

    __slots__ = ("buckets", "sum_s")

    def __init__(self) -> None:
        self.buckets = [0] * (len(_SECONDS) + 1)
        self.sum_s = 0.0


class RequestTally(Collector):
    """Requests by route and status and their times: counted without locks, within one event loop."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, int], _Tally] = {}

    def count(self, route: str, status: int, seconds: float) -> None:
        """One request that was answered."""
        tally = self._tallies.get((route, status))
        if tally is None:
            tally = self._tallies[route, status] = _Tally()
        tally.buckets[bisect_left(_SECONDS, seconds)] += 1
        tally.sum_s += seconds

    def answered(self, status: int, route: str | None = None) -> int:
        """Requests answered with that status, on one route or on all; any thread may ask."""
        found = [tally for (r, s), tally in list(self._tallies.items()) if s == status and route in (None, r)]
        return sum(sum(tally.buckets) for tally in found)

    def collect(self) -> Iterable[Metric]:
        """What Prometheus is shown."""
        requests = CounterMetricFamily(
            "recsys_api_requests", "Requests by route and status", labels=["route", "status"]
        )
        latency = HistogramMetricFamily("recsys_api_latency_seconds", "Request to answer", labels=["route"])
        routes: dict[str, list[_Tally]] = {}
        for (route, status), tally in self._tallies.items():
            requests.add_metric([route, str(status)], sum(tally.buckets))
            routes.setdefault(route, []).append(tally)
        for route, tallies in routes.items():
            counts = (sum(bucket) for bucket in zip(*(tally.buckets for tally in tallies), strict=True))
            latency.add_metric([route], cumulated(_SECONDS, counts), sum(tally.sum_s for tally in tallies))
        return requests, latency


class ApiMetrics:
    """All of them, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = RequestTally()
        registry.register(self.requests)
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
            self._metrics.requests.count(route, status, time.perf_counter() - began)
