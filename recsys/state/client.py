"""Redis clients whose time-outs and retries fit what they are used for.

The library's default retries every command up to ten times. A write that was applied but whose reply came too late
is then applied again, and a blocking read is waited for many times over. Here no client retries by itself: whoever
calls repeats a write only where the repetition is harmless (same `event_id`), and every wait has one bound.
"""

from __future__ import annotations

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsys.config import RedisSettings


def writer(settings: RedisSettings) -> redis.Redis:
    """For commands that answer at once. Replies are bytes."""
    return redis.Redis.from_url(
        settings.url,
        socket_timeout=settings.socket_timeout_s,
        socket_connect_timeout=settings.connect_timeout_s,
        retry=Retry(NoBackoff(), 0),
        max_connections=settings.connections_max,
    )


def reader(settings: RedisSettings, *, block_ms: int) -> redis.Redis:
    """For reads that block up to `block_ms`: the socket waits that much longer than for other replies."""
    return redis.Redis.from_url(
        settings.url,
        socket_timeout=settings.socket_timeout_s + block_ms / 1000,
        socket_connect_timeout=settings.connect_timeout_s,
        retry=Retry(NoBackoff(), 0),
        max_connections=settings.connections_max,
    )


def async_client(settings: RedisSettings) -> redis.asyncio.Redis:
    """For the API. Replies are text; beyond `connections_max` a command waits for a connection, but not for long."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.url,
        socket_timeout=settings.socket_timeout_s,
        socket_connect_timeout=settings.connect_timeout_s,
        retry=AsyncRetry(NoBackoff(), 0),
        max_connections=settings.connections_max,
        timeout=settings.socket_timeout_s,
        decode_responses=True,
    )
    return redis.asyncio.Redis.from_pool(pool)
