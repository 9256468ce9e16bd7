"""Titles are kept for a short while, and those in use are never waited for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from recsys.api.item_cache import ItemCache
from recsys.state.items import CatalogueItem
from recsys.state.keys import Keys


class Redis:
    """Knows every item but `none`."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    async def hmget(self, key: str, ids: list[str]) -> list[bytes | None]:
        self.asked.append(sorted(ids))
        encoded = (CatalogueItem(item_id=i, title="t", ts=1) for i in ids)
        return [None if item.item_id == "none" else msgspec.json.encode(item) for item in encoded]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, to be set."""
    now = [100.0]
    monkeypatch.setattr("recsys.api.item_cache.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_titles_in_use_are_read_again_before_an_answer_has_to_wait(clock: list[float]) -> None:
    async def run() -> None:
        redis: Any = Redis()
        cache = ItemCache(redis, Keys(), fresh_s=10)
        assert set(await cache.get(["a", "b", "none"])) == {"a", "b"}
        assert set(await cache.get(["a"])) == {"a"}
        assert redis.asked == [["a", "b", "none"]]
        clock[0] += 6  # another generation
        assert [item and item.item_id for item in cache.fresh(["a", "none"]) or ()] == ["a", None]
        renewing = cache._renewing
        assert renewing is not None
        await renewing
        assert redis.asked[1:] == [["a", "none"]]
        clock[0] += 6
        assert cache.fresh(["a", "none"]) is not None
        assert cache.fresh(["b"]) is None, "nobody used it"
        assert set(await cache.get(["b", "a"])) == {"a", "b"}
        assert redis.asked[2:] == [["b"]]
        cache._renewing = None
        clock[0] += 1_000
        assert cache.fresh(["a"]) is None

    asyncio.run(run())


def test_what_is_kept_is_bounded_and_can_be_forgotten(clock: list[float]) -> None:
    async def run() -> None:
        redis: Any = Redis()
        cache = ItemCache(redis, Keys(), longest=8)
        for first in range(0, 100, 4):
            ids = [str(n) for n in range(first, first + 4)]
            assert set(await cache.get(ids)) == set(ids)
            assert len(cache._young) + len(cache._old) <= 8
        assert cache.fresh(["99"]) is not None
        cache.forget("99")
        assert cache.fresh(["99"]) is None

    asyncio.run(run())
