"""Titles and categories for answers, without asking Redis for the same item twice in a few seconds.

Two generations: what was read lately, and what was read before that. What is still in use of the older one is read
again, all at once, so that no answer has to wait for it; the rest goes with its generation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

from recsys.state.items import IDS_PER_LOOKUP_MAX, CatalogueItem, ItemReader
from recsys.state.keys import Keys

LONGEST = 50_000
FRESH_S = 5.0
GATHER_S = 0.05


class ItemCache:
    """Within one event loop.

    Args:
        redis: where items are.
        keys: of them.
        longest: entries of both generations from which on the younger one ends early.
        fresh_s: longest time for which an entry counts.
    """

    def __init__(self, redis: Redis, keys: Keys, *, longest: int = LONGEST, fresh_s: float = FRESH_S) -> None:
        self._reader = ItemReader(redis, keys)
        self._longest = longest
        self._generation_s = fresh_s / 2
        self._ends_s = 0.0
        self._young: dict[str, CatalogueItem | None] = {}  # None: there is no such item
        self._old: dict[str, CatalogueItem | None] = {}
        self._ageing: set[str] = set()
        self._renewing: asyncio.Task[None] | None = None

    async def get(self, item_ids: Sequence[str], *, within_s: float | None = None) -> dict[str, CatalogueItem]:
        """The items that exist, asked for in one round trip where they are not fresh.

        Raises:
            TimeoutError: not within that time. RedisError: Redis is away.
        """
        self._age_if_due()
        young, old = self._young, self._old
        known = {i: young[i] if i in young else old[i] for i in item_ids if i in young or i in old}
        if unknown := [i for i in item_ids if i not in known]:
            reading = asyncio.wait_for(self._read(unknown), within_s)
            known |= await asyncio.create_task(reading)  # a task: the caller may have none
        return {item_id: item for item_id, item in known.items() if item is not None}

    def fresh(self, item_ids: Sequence[str]) -> list[CatalogueItem | None] | None:
        """The items in order, None for those that do not exist; None for all if any has to be asked for."""
        self._age_if_due()
        young = self._young
        try:
            return [young[item_id] for item_id in item_ids]
        except KeyError:
            return self._from_both(item_ids)

    def forget(self, item_id: str) -> None:
        """Ask again next time."""
        self._young.pop(item_id, None)
        self._old.pop(item_id, None)

    def _from_both(self, item_ids: Sequence[str]) -> list[CatalogueItem | None] | None:
        young, old = self._young, self._old
        if not all(item_id in young or item_id in old for item_id in item_ids):
            return None
        self._ageing.update(item_id for item_id in item_ids if item_id not in young)
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew(), name="items-renew")
        return [young[item_id] if item_id in young else old[item_id] for item_id in item_ids]

    def _age_if_due(self) -> None:
        if time.monotonic() >= self._ends_s:
            self._age()

    def _age(self) -> None:
        now = time.monotonic()
        self._old = self._young if now < self._ends_s + self._generation_s else {}
        self._young = {}
        self._ends_s = now + self._generation_s

    async def _renew(self) -> None:
        """Read what is in use and grows old; without Redis it is asked for again when it is too old."""
        try:
            await asyncio.sleep(GATHER_S)
            ageing, self._ageing = list(self._ageing)[:IDS_PER_LOOKUP_MAX], set()
            await self._read(ageing)
        except RedisError:
            pass
        finally:
            self._renewing = None

    async def _read(self, item_ids: Sequence[str]) -> dict[str, CatalogueItem | None]:
        found = await self._reader.get_items(item_ids)
        answers = {item_id: found.get(item_id) for item_id in item_ids}
        if len(self._young) + len(answers) > self._longest // 2:
            self._age()
        self._young |= answers
        return answers
