"""Titles and categories for answers, without asking Redis for the same item twice in a few seconds."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence

from redis.asyncio import Redis

from recsys.state.items import CatalogueItem, ItemReader
from recsys.state.keys import Keys

LONGEST = 50_000
FRESH_S = 5.0


class ItemCache:
    """Bounded, least recently used first out; an entry counts for `FRESH_S` seconds."""

    def __init__(self, redis: Redis, keys: Keys, *, longest: int = LONGEST, fresh_s: float = FRESH_S) -> None:
        self._reader = ItemReader(redis, keys)
        self._longest = longest
        self._fresh_s = fresh_s
        self._known: OrderedDict[str, tuple[float, CatalogueItem | None]] = OrderedDict()

    async def get(self, item_ids: Sequence[str]) -> dict[str, CatalogueItem]:
        """The items that exist, asked for in one round trip where they are not fresh."""
        now = time.monotonic()
        missing = [i for i in item_ids if i not in self._known or self._known[i][0] < now]
        if missing:
            found = await self._reader.get_items(missing)
            for item_id in missing:
                self._known[item_id] = (now + self._fresh_s, found.get(item_id))
                self._known.move_to_end(item_id)
            while len(self._known) > max(self._longest, len(item_ids)):
                self._known.popitem(last=False)
        return {i: item for i in item_ids if (item := self._known[i][1]) is not None}

    def forget(self, item_id: str) -> None:
        """Ask again next time."""
        self._known.pop(item_id, None)
