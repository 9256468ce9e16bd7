"""The FastAPI application: resources with a lifetime, middleware, routes."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Receive, Scope, Send

from recsys.api import direct, hot, limits, metrics, problems
from recsys.api.congestion import Congestion
from recsys.api.deps import Resources
from recsys.api.engine_client import EngineClient
from recsys.api.engine_pool import EnginePool, RankingEngine
from recsys.api.fallback import Fallback
from recsys.api.impressions import ImpressionWriter
from recsys.api.item_cache import ItemCache
from recsys.api.kept_answer import KeptAnswer
from recsys.api.load_stream import LoadStream
from recsys.api.rate_limit import CallerRates, RateLimit, TokenBuckets
from recsys.api.recent import RecentQueries
from recsys.api.routes import (
    events,
    experts,
    health,
    items,
    models,
    popular,
    recommendations,
    router,
    system,
    traffic,
    users,
)
from recsys.api.system import SystemFacts, query_counts
from recsys.api.tastes import Tastes
from recsys.collector import collect_seldom
from recsys.config import Settings
from recsys.events.producer import EventProducer
from recsys.state.client import async_client
from recsys.state.items import ItemReader
from recsys.state.keys import Keys
from recsys.state.popular import PopularItems
from recsys.state.presence import Presence
from recsys.state.telemetry import TelemetryReader
from recsys.state.users import UserReader

SPARE_DESCRIPTORS = 256  # for Redis, engines and files

FREE_PER_ENGINE = 4  # requests in flight that are always let in

EXPERT_USERS_KEPT_S = 30.0  # one sample of users costs up to 48 queries

DESCRIPTION = """
Recommendations by a Mixture of Experts, fed by events that change the very next answer.

Errors are `application/problem+json` and name the field. 503 and 429 carry `Retry-After`. `X-Deadline-Ms` sets how
long an answer may take. Admin calls need `X-Api-Key`.
"""


class _Application(FastAPI):
    """FastAPI behind an entry of its own: what every call passes, and the hot call, need no framework."""

    entry: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.entry(scope, receive, send)

    async def framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastAPI itself, with its middleware and routes."""
        await super().__call__(scope, receive, send)


def create_app(
    settings: Settings | None = None,
    *,
    engines: Sequence[RankingEngine] = (),
    registries: Sequence[Collector] = (),
) -> FastAPI:
    """The application.

    Args:
        settings: from the environment unless given.
        engines: that rank; those at `engine.endpoint` unless given.
        registries: metrics of what else lives in this process.
    """
    config = settings or Settings()
    measured = metrics.ApiMetrics()
    for registry in registries:
        measured.registry.register(registry)
    longest_queue = config.api.in_flight_max
    asked = engines or [EngineClient(address, in_flight_max=longest_queue) for address in config.engine.endpoints]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
        keys = Keys(config.redis.prefix)
        redis = async_client(config.redis)
        engine = EnginePool(asked, in_flight_max=longest_queue, retries=measured.engine_retries)
        congestion = Congestion(FREE_PER_ENGINE * len(asked), deadline_s=config.api.deadline_ms / 1e3)
        producer = EventProducer(redis, keys, group=config.events.group, backlog_max=config.events.backlog_max)
        impressions = ImpressionWriter(
            producer, longest=config.api.impressions_queue_max, dropped=measured.impressions_dropped
        )
        item_cache = ItemCache(redis, keys)
        users = UserReader(redis, keys)
        popular = PopularItems(redis, keys, config.state)
        fallback = Fallback(
            popular,
            ItemReader(redis, keys),
            item_cache,
            longest=config.state.popular_max,
            refresh_s=config.state.popular_refresh_s,
        )
        telemetry = TelemetryReader(redis, keys)
        load_stream = LoadStream(telemetry, listeners_max=config.api.streams_max)
        await engine.start()
        congestion.start()
        impressions.start()
        fallback.start()
        load_stream.start()
        app.state.resources = Resources(
            settings=config,
            keys=keys,
            redis=redis,
            engine=engine,
            congestion=congestion,
            producer=producer,
            impressions=impressions,
            items=item_cache,
            users=users,
            tastes=Tastes(users),
            popular=popular,
            telemetry=telemetry,
            load_stream=load_stream,
            fallback=fallback,
            recent=RecentQueries(),
            system=SystemFacts(redis, keys),
            expert_users=KeptAnswer(EXPERT_USERS_KEPT_S),
            metrics=measured,
        )
        collect_seldom()
        present = Presence(config, "api", f"api-{os.getpid()}", queries=lambda: query_counts(measured, congestion))
        present.start()
        try:
            yield {direct.STATE: hot_call}
        finally:
            await asyncio.to_thread(present.close)
            await load_stream.close()
            await fallback.close()
            await impressions.close()
            await engine.close()
            await congestion.close()
            await redis.aclose()

    longest = config.api.body_bytes_max
    app = _Application(title="recsys-moe", version="1", description=DESCRIPTION, lifespan=lifespan)
    problems.install(app)
    app.add_middleware(limits.BodyLimit, longest=longest)
    rates: CallerRates | None = None
    if config.api.rate_per_s is not None:
        buckets = TokenBuckets(config.api.rate_per_s, config.api.rate_burst, config.api.rate_callers_max)
        admin_key = config.api.admin_key.get_secret_value() if config.api.admin_key else ""
        rates = CallerRates(buckets, measured.rate_limited, admin_key)
    hot_call = hot.HotRecommendations(app.framework, lambda: app.state.resources, longest=longest, rates=rates)
    app.entry = metrics.Measure(RateLimit(hot_call, rates) if rates else hot_call, metrics=measured)
    for module in (recommendations, events, items, users, popular, experts, router, traffic, models, system):
        app.include_router(module.routes, responses=problems.describe(429))
    app.include_router(health.routes)
    return app


def run_api(settings: Settings) -> None:
    """Entry point: serve until SIGTERM or SIGINT."""
    serve_http(settings, "recsys.api.app:create_app")


def serve_http(settings: Settings, app: str) -> None:
    """Serve the application that a factory (`module:name`) makes in each process."""
    import uvicorn

    _allow_descriptors(settings.api.connections_max + SPARE_DESCRIPTORS)
    uvicorn.run(
        app,
        factory=True,
        host=settings.api.host,
        port=settings.api.port,
        workers=settings.api.workers,
        log_level="warning",
        access_log=False,
        http=direct.DirectConnection,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=30,
    )


def _allow_descriptors(wanted: int) -> None:
    """Raise the limit on open files to what the connections need, as far as that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
