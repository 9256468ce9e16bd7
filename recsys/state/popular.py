"""Most used items by window of time, kept in memory and refreshed from Redis now and then."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import redis
import redis.asyncio

from recsys.config import StateSettings
from recsys.state.keys import Keys

Window = Literal["1h", "24h", "7d", "all"]
WINDOWS: tuple[str, ...] = get_args(Window)

_HOUR_S, _DAY_S = 3_600, 86_400
_CLOSED_EVERY_S = 60.0  # a bucket of the past changes only by late events


@dataclass(frozen=True, slots=True)
class _Bucket:
    """One key, and which share of its weight lies in the window."""

    key: str
    share: float
    closed: bool


@dataclass(slots=True)
class _Cached:
    weights: dict[str, float]
    read_s: float


@dataclass(slots=True)
class _Ranking:
    """A window as it was when last read."""

    items: list[tuple[str, float]] = field(default_factory=list)
    read_s: float = float("-inf")


class PopularItems:
    """Answers from memory; reads Redis at most once per `popular_refresh_s` and window.

    The window slides: the oldest bucket counts with the share of it that is still inside. Of each bucket the
    `popular_max` heaviest items are read, so the sum is exact for items that are popular in some bucket. While
    Redis is away the last known ranking is served.
    """

    def __init__(
        self, client: redis.asyncio.Redis, keys: Keys, state: StateSettings, *, now_s: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._keys = keys
        self._most = state.popular_max
        self._refresh_s = state.popular_refresh_s
        self._now_s = now_s
        self._rankings: dict[str, _Ranking] = {window: _Ranking() for window in WINDOWS}
        self._buckets: dict[str, _Cached] = {}
        self._reading = asyncio.Lock()

    async def top(self, window: Window, n: int) -> list[tuple[str, float]]:
        """At most `n` items and their weights, heaviest first; items of all time follow where the window has fewer.

        Raises:
            redis.RedisError: Redis is away and nothing was ever read.
        """
        items = (await self._ranking(window))[:n]
        if len(items) < n and window != "all":
            inside = {item for item, _ in items}
            rest = [(item, 0.0) for item, _ in await self._ranking("all") if item not in inside]
            items = items + rest[: n - len(items)]
        return items

    async def _ranking(self, window: Window) -> list[tuple[str, float]]:
        ranking = self._rankings[window]
        if time.monotonic() - ranking.read_s < self._refresh_s:
            return ranking.items
        if self._reading.locked() and ranking.items:
            return ranking.items
        async with self._reading:
            if time.monotonic() - ranking.read_s >= self._refresh_s:
                await self._refresh(window, ranking)
        return ranking.items

    async def _refresh(self, window: Window, ranking: _Ranking) -> None:
        buckets = self._of(window)
        try:
            await self._read(buckets)
        except redis.RedisError:
            if ranking.read_s == float("-inf"):
                raise
        else:
            total: Counter[str] = Counter()
            for bucket in buckets:
                for item, weight in self._buckets[bucket.key].weights.items():
                    total[item] += weight * bucket.share  # type: ignore[assignment]
            ranking.items = heapq.nlargest(self._most, total.items(), key=lambda pair: (pair[1], pair[0]))
        ranking.read_s = time.monotonic()

    async def _read(self, buckets: list[_Bucket]) -> None:
        now = time.monotonic()
        due = [
            bucket.key
            for bucket in buckets
            if (cached := self._buckets.get(bucket.key)) is None
            or now - cached.read_s >= (_CLOSED_EVERY_S if bucket.closed else 0.0)
        ]
        pipe = self._client.pipeline(transaction=False)
        for key in due:
            pipe.zrevrange(key, 0, self._most - 1, withscores=True)
        for key, pairs in zip(due, await pipe.execute(), strict=True):
            self._buckets[key] = _Cached(dict(pairs), now)
        for key in [key for key, cached in self._buckets.items() if now - cached.read_s > 2 * _DAY_S]:
            del self._buckets[key]

    def _of(self, window: Window) -> list[_Bucket]:
        match window:
            case "1h":
                return self._sliding(self._keys.popular_hour, _HOUR_S, 1)
            case "24h":
                return self._sliding(self._keys.popular_hour, _HOUR_S, 24)
            case "7d":
                return self._sliding(self._keys.popular_day, _DAY_S, 7)
            case _:
                return [_Bucket(self._keys.popular_all, 1.0, closed=False)]

    def _sliding(self, key: Callable[[int], str], length_s: int, buckets: int) -> list[_Bucket]:
        now, elapsed_s = divmod(self._now_s(), length_s)
        whole = [_Bucket(key(int(now) - back), 1.0, closed=back > 0) for back in range(buckets)]
        return [*whole, _Bucket(key(int(now) - buckets), 1.0 - elapsed_s / length_s, closed=True)]
