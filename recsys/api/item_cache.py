"""Titles and categories for answers, without asking Redis for the same item twice in a few seconds.

What is in use is read again, all at once, before it is too old, so that no answer has to wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

from recsys.state.items import IDS_PER_LOOKUP_MAX, CatalogueItem, ItemReader
from recsys.state.keys import Keys

LONGEST = 50_000
FRESH_S = 5.0
AHEAD = 0.4  # of that time: what is used in the end of it is read again
GATHER_S = 0.05


class ItemCache:
    """Bounded, least recently used first out; an entry counts for `FRESH_S` seconds."""

    def __init__(self, redis: Redis, keys: Keys, *, longest: int = LONGEST, fresh_s: float = FRESH_S) -> None:
        self._reader = ItemReader(redis, keys)
        self._longest = longest
        self._fresh_s = fresh_s
        self._ahead_s = AHEAD * fresh_s
        self._known: OrderedDict[str, tuple[float, CatalogueItem | None]] = OrderedDict()
        self._ageing: set[str] = set()
        self._renewing: asyncio.Task[None] | None = None

    async def get(self, item_ids: Sequence[str]) -> dict[str, CatalogueItem]:
        """The items that exist, asked for in one round trip where they are not fresh."""
        found = self.fresh(item_ids)
        if found is None:
            now = time.monotonic()
            unknown = [i for i in item_ids if i not in self._known or self._known[i][0] < now]
            await asyncio.create_task(self._read(unknown))  # a task: the caller may have none
            found = [self._known[i][1] if i in self._known else None for i in item_ids]
            self._shrink()
        return {item.item_id: item for item in found if item is not None}

    def fresh(self, item_ids: Iterable[str]) -> list[CatalogueItem | None] | None:
        """The items in order, None for those that do not exist; None for all if any has to be asked for."""
        now, known = time.monotonic(), self._known
        found: list[CatalogueItem | None] = []
        ageing_s = now + self._ahead_s
        for item_id in item_ids:
            entry = known.get(item_id)
            if entry is None or entry[0] < now:
                return None
            if entry[0] < ageing_s:
                self._ageing.add(item_id)
            found.append(entry[1])
        if self._ageing and self._renewing is None:
            self._renewing = asyncio.create_task(self._renew(), name="items-renew")
        return found

    async def _renew(self) -> None:
        """Read what is in use and grows old; without Redis it is asked for again when it is too old."""
        try:
            await asyncio.sleep(GATHER_S)
            ageing, self._ageing = list(self._ageing)[:IDS_PER_LOOKUP_MAX], set()
            await self._read(ageing)
            self._shrink()
        except RedisError:
            pass
        finally:
            self._renewing = None

    async def _read(self, item_ids: Sequence[str]) -> None:
        until = time.monotonic() + self._fresh_s
        found = await self._reader.get_items(item_ids)
        for item_id in item_ids:
            self._known[item_id] = (until, found.get(item_id))
            self._known.move_to_end(item_id)

    def _shrink(self) -> None:
        while len(self._known) > self._longest:
            self._known.popitem(last=False)

    def forget(self, item_id: str) -> None:
        """Ask again next time."""
        self._known.pop(item_id, None)
