"""The answer when no engine can give one: popular items that meet the request's conditions, marked as such."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import structlog
from redis.exceptions import RedisError

from recsys.api.ending import end
from recsys.api.item_cache import ItemCache
from recsys.state.items import CatalogueItem, ItemReader
from recsys.state.popular import PopularItems
from recsys.wire import Filters

log = structlog.get_logger(__name__)


class Fallback:
    """Popular items, then recent ones, refreshed in the background, so that a fallback answer asks nobody.

    `start`, then `close`.
    """

    def __init__(
        self, popular: PopularItems, reader: ItemReader, items: ItemCache, *, longest: int, refresh_s: float
    ) -> None:
        self._popular = popular
        self._reader = reader
        self._items = items
        self._longest = longest
        self._refresh_s = refresh_s
        self._scores: list[tuple[str, float]] = []
        self._known: Mapping[str, CatalogueItem] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to refresh."""
        self._task = asyncio.create_task(self._run(), name="fallback")

    async def close(self) -> None:
        """Stop refreshing."""
        if self._task is not None:
            await end(self._task)

    def pick(
        self, k: int, *, filters: Filters, exclude: Collection[str], candidates: Collection[str] | None
    ) -> list[tuple[CatalogueItem, float]]:
        """The `k` most popular items that meet the conditions, with their weights, from what was last read."""
        chosen: list[tuple[CatalogueItem, float]] = []
        for item_id, score in self._scores:
            item = self._known.get(item_id)
            if item is None or item_id in exclude or (candidates is not None and item_id not in candidates):
                continue
            if meets(filters, item):
                chosen.append((item, score))
                if len(chosen) == k:
                    break
        return chosen

    async def refresh(self) -> None:
        """Read them now."""
        scores = await self._popular.top("24h", self._longest)
        if len(scores) < self._longest:
            popular = {item_id for item_id, _ in scores}
            scores += [(item_id, 0.0) for item_id in await self._reader.recent(self._longest) if item_id not in popular]
        self._known = await self._items.get([item_id for item_id, _ in scores])
        self._scores = scores

    async def _run(self) -> None:
        while True:
            try:
                await self.refresh()
            except RedisError as error:
                log.warning("fallback_not_refreshed", error=str(error))
            await asyncio.sleep(self._refresh_s)


def meets(filters: Filters, item: CatalogueItem) -> bool:
    """Whether an item meets all conditions; one without a year meets no bound on years."""
    categories = set(item.categories)
    if filters.categories_any and not categories & set(filters.categories_any):
        return False
    if categories & set(filters.categories_none):
        return False
    if filters.year_min is None and filters.year_max is None:
        return True
    year = item.year
    if year is None:
        return False
    return (filters.year_min is None or year >= filters.year_min) and (
        filters.year_max is None or year <= filters.year_max
    )
