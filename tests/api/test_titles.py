"""Titles never make an answer late: without them in time, it goes out without them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from redis.exceptions import ConnectionError as Gone

from recsys.api.item_cache import ItemCache
from recsys.api.recommend import titled
from recsys.state.items import CatalogueItem
from recsys.state.keys import Keys


class Redis:
    """Answers, fails or hangs."""

    def __init__(self, mood: str) -> None:
        self.mood = mood
        self.given_up = 0

    async def hmget(self, key: str, ids: list[str]) -> list[bytes]:
        if self.mood == "gone":
            raise Gone
        if self.mood == "hangs":
            try:
                await asyncio.Event().wait()
            finally:
                self.given_up += 1
        return [msgspec.json.encode(CatalogueItem(item_id=item, title="t", ts=1)) for item in ids]


@pytest.mark.parametrize(("mood", "title"), [("well", "t"), ("gone", None), ("hangs", None)])
def test_an_answer_waits_for_titles_no_longer_than_its_deadline(mood: str, title: str | None) -> None:
    redis: Any = Redis(mood)

    async def run() -> None:
        res: Any = SimpleNamespace(items=ItemCache(redis, Keys()))
        async with asyncio.timeout(20):
            items = await titled(["a", "b"], [2.0, 1.0], res, within_s=0.02)
        assert [(item.item_id, item.score, item.title) for item in items] == [("a", 2.0, title), ("b", 1.0, title)]

    asyncio.run(run())
    assert redis.given_up == (mood == "hangs")
