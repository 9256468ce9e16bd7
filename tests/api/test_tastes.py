"""Users of many requests share a round trip; nobody waits longer than he said, and titles in use never grow old."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from redis.exceptions import ConnectionError as Gone

from recsys.api.item_cache import ItemCache
from recsys.api.tastes import BATCH, Tastes
from recsys.state.items import CatalogueItem
from recsys.state.keys import Keys
from recsys.state.users import Taste


class Users:
    """Answers when `open` is set; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = asyncio.Event()
        self.asked = asyncio.Event()

    async def get_tastes(self, user_ids: Sequence[str]) -> list[Taste]:
        self.batches.append(list(user_ids))
        self.asked.set()
        await self.open.wait()
        if "broken" in user_ids:
            raise Gone("away")
        return [Taste(history=(user,)) for user in user_ids]


def test_what_arrives_during_a_round_trip_is_read_in_the_next() -> None:
    async def run() -> None:
        users: Any = Users()
        tastes = Tastes(users)
        first = [asyncio.ensure_future(tastes.get(f"a{n}", within_s=20)) for n in range(3)]
        await users.asked.wait()
        rest = [asyncio.ensure_future(tastes.get(f"b{n}", within_s=20)) for n in range(BATCH + 1)]
        await asyncio.sleep(0)
        users.open.set()
        found = await asyncio.gather(*first, *rest)
        assert [len(batch) for batch in users.batches] == [3, BATCH, 1]
        assert [taste.history for taste in found] == [(f"a{n}",) for n in range(3)] + [(f"b{n}",) for n in range(65)]

    asyncio.run(run())


def test_an_error_is_everybodys_and_passes_and_a_slow_answer_is_not_waited_for() -> None:
    async def run() -> None:
        users: Any = Users()
        tastes = Tastes(users)
        with pytest.raises(TimeoutError):
            await tastes.get("slow", within_s=0.01)
        users.open.set()
        found = await asyncio.gather(*(tastes.get(u, within_s=20) for u in ("broken", "b")), return_exceptions=True)
        assert all(isinstance(one, Gone) for one in found)
        assert (await tastes.get("c", within_s=20)).history == ("c",)

    asyncio.run(run())


def test_titles_in_use_are_read_again_before_an_answer_has_to_wait() -> None:
    class Redis:
        asked: list[list[str]]

        def __init__(self) -> None:
            self.asked = []

        async def hmget(self, key: str, ids: list[str]) -> list[bytes | None]:
            self.asked.append(sorted(ids))
            encoded = (CatalogueItem(item_id=i, title="t", ts=1) for i in ids)
            return [None if item.item_id == "none" else msgspec.json.encode(item) for item in encoded]

    async def run() -> None:
        redis: Any = Redis()
        cache = ItemCache(redis, Keys(), longest=3, fresh_s=1_000)
        assert set(await cache.get(["a", "b", "none"])) == {"a", "b"}
        assert set(await cache.get(["a"])) == {"a"}
        assert redis.asked == [["a", "b", "none"]]
        cache._ahead_s = 2_000  # as if most of the time had passed
        assert set(await cache.get(["a", "none"])) == {"a"}
        assert set(await cache.get(["b"])) == {"b"}
        renewing = cache._renewing
        assert renewing is not None
        await renewing
        assert redis.asked[1:] == [["a", "b", "none"]]
        assert set(await cache.get(["c"])) == {"c"}
        assert len(cache._known) == 3

    asyncio.run(run())
