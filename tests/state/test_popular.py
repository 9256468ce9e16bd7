"""Popular items by window, as the API reads them."""

import asyncio
import time
from typing import Any

import pytest
import redis

from recsys.config import StateSettings
from recsys.state.popular import PopularItems

HOUR_S, DAY_S = 3_600, 86_400
NOW_S = 480_000 * HOUR_S + HOUR_S / 4  # a quarter past, and not at the start of a day


@pytest.fixture
def buckets(stream: Any) -> Any:
    hour, day = int(NOW_S // HOUR_S), int(NOW_S // DAY_S)
    stream.redis.zadd(stream.keys.popular_hour(hour), {"a": 4, "b": 1})
    stream.redis.zadd(stream.keys.popular_hour(hour - 1), {"b": 8})
    stream.redis.zadd(stream.keys.popular_hour(hour - 2), {"c": 100})
    stream.redis.zadd(stream.keys.popular_day(day), {"a": 4, "b": 9, "c": 100})
    stream.redis.zadd(stream.keys.popular_day(day - 6), {"d": 1_000})
    stream.redis.zadd(stream.keys.popular_day(day - 8), {"e": 10_000})
    stream.redis.zadd(stream.keys.popular_all, {"a": 4, "b": 9, "c": 100, "d": 1_000, "e": 10_000})
    return stream


def top(stream: Any, window: Any, n: int, **settings: Any) -> list[tuple[str, float]]:
    def popular(client: redis.asyncio.Redis) -> PopularItems:
        return PopularItems(client, stream.keys, StateSettings(**settings), now_s=lambda: NOW_S)

    return stream.read(lambda client: popular(client).top(window, n))


def test_the_window_slides(buckets: Any) -> None:
    assert top(buckets, "1h", 2) == [("b", 1 + 8 * 0.75), ("a", 4)]
    assert top(buckets, "24h", 3) == [("c", 100), ("b", 9), ("a", 4)]
    assert top(buckets, "7d", 4) == [("d", 1_000), ("c", 100), ("b", 9), ("a", 4)]
    assert top(buckets, "all", 2) == [("e", 10_000), ("d", 1_000)]


def test_items_of_all_time_follow_where_the_window_has_fewer(buckets: Any) -> None:
    assert top(buckets, "1h", 4) == [("b", 7.0), ("a", 4.0), ("e", 0.0), ("d", 0.0)]
    assert len(top(buckets, "1h", 100)) == 5


def test_only_so_many_items_are_read(buckets: Any) -> None:
    assert top(buckets, "all", 100, popular_max=3) == [("e", 10_000), ("d", 1_000), ("c", 100)]


def test_nothing_happened_yet(stream: Any) -> None:
    assert top(stream, "7d", 10) == []


def test_read_again_after_the_refresh_time_and_served_while_redis_is_away(redis_server: Any, stream: Any) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.zadd(stream.keys.popular_all, {"a": 1})

    async def scenario() -> None:
        client = redis.asyncio.Redis.from_url(redis_server.url, decode_responses=True)
        popular = PopularItems(client, stream.keys, StateSettings(popular_refresh_s=0.05))
        assert await popular.top("all", 5) == [("a", 1)]
        await client.zadd(stream.keys.popular_all, {"b": 2})
        assert await popular.top("all", 5) == [("a", 1)], "within the refresh time memory answers"
        deadline = time.monotonic() + 5
        while await popular.top("all", 5) != [("b", 2), ("a", 1)]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        redis_server.kill()
        await asyncio.sleep(0.06)
        assert await popular.top("all", 5) == [("b", 2), ("a", 1)]
        await client.aclose()

    asyncio.run(scenario())
