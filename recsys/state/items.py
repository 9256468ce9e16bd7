"""The catalogue: what the API looks up by id, and what an engine loads and then follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import redis
import redis.asyncio

from recsys.errors import NotFoundError
from recsys.events.schema import Item
from recsys.state.keys import Keys

IDS_PER_LOOKUP_MAX = 10_000
YEAR_MAX = 10_000
_PAGE = 1_000


class CatalogueItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item as it is stored; `ts` is the time of the event that wrote it (Unix ms)."""

    item_id: str
    title: str
    ts: int
    categories: tuple[str, ...] = ()
    attributes: dict[str, Any] = {}
    published_at: int | None = None

    @classmethod
    def of(cls, event: Item) -> CatalogueItem:
        return cls(
            item_id=event.item_id,
            title=event.title,
            ts=event.ts,
            categories=event.categories,
            attributes=event.attributes,
            published_at=event.published_at,
        )

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> CatalogueItem:
        """From a row of a data set's table of items."""
        return cls(
            item_id=row["item_id"],
            title=row["title"],
            ts=0,
            categories=tuple(row["categories"] or ()),
            attributes={} if row["year"] is None else {"year": row["year"]},
        )

    @property
    def year(self) -> int | None:
        """Attribute `year`, if it is a whole number that can be one."""
        year = self.attributes.get("year")
        return year if type(year) is int and abs(year) <= YEAR_MAX else None


_decode = msgspec.json.Decoder(CatalogueItem).decode


class ItemReader:
    """Looks items up by id, asynchronously. Items are written by `item` and `item_delete` events only."""

    def __init__(self, client: redis.asyncio.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def get_items(self, item_ids: Sequence[str]) -> dict[str, CatalogueItem]:
        """Those of at most 10,000 items that exist, by id, in one round trip."""
        if not item_ids:
            return {}
        if len(item_ids) > IDS_PER_LOOKUP_MAX:
            raise ValueError(f"item_ids: {len(item_ids)} ids, at most {IDS_PER_LOOKUP_MAX}")
        found: list[Any] = await self._client.hmget(self._keys.items, list(item_ids))
        return {item_id: _decode(raw) for item_id, raw in zip(item_ids, found, strict=True) if raw is not None}

    async def get_item(self, item_id: str) -> tuple[CatalogueItem, int]:
        """One item and the number of interactions with it.

        Raises:
            NotFoundError: it is not in the catalogue.
        """
        pipe = self._client.pipeline(transaction=False)
        pipe.hget(self._keys.items, item_id)
        pipe.hget(self._keys.item_counts, item_id)
        raw, count = await pipe.execute()
        if raw is None:
            raise NotFoundError(f"item_id: no item {item_id!r}", field="item_id")
        return _decode(raw), int(count or 0)

    async def recent(self, most: int) -> list[str]:
        """Items that were put or changed last, newest first; deleted ones may be among them."""
        entries: Any = await self._client.xrevrange(self._keys.item_changes, count=most)
        return list(dict.fromkeys(fields["item_id"] for _, fields in entries))

    async def size(self) -> int:
        """Items in the catalogue."""
        return int(await self._client.hlen(self._keys.items))


@dataclass(frozen=True, slots=True)
class CatalogueChange:
    """What happened since the last look. After a gap `reloaded` holds the whole catalogue and the rest is empty."""

    put: dict[str, CatalogueItem]
    deleted: frozenset[str]
    reloaded: dict[str, CatalogueItem] | None = None


class CatalogueFeed:
    """Loads the catalogue once and then follows it, synchronously.

    Every change carries a number without gaps. A follower that was away longer than the change stream is kept, or a
    Redis that lost its data, shows as a gap, and the whole catalogue is loaded again.
    """

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._seen = 0
        self._cursor = "0-0"

    def load(self) -> dict[str, CatalogueItem]:
        """The whole catalogue by id, read page by page; changes after this moment come from `follow`."""
        # The position is read first: a change made while the pages are read is then seen twice, never missed.
        pipe = self._client.pipeline(transaction=True)
        pipe.hget(self._keys.stats, "item_changes")
        pipe.xrevrange(self._keys.item_changes, count=1)
        seen, last = pipe.execute()
        items = {
            item.item_id: item
            for _, raw in self._client.hscan_iter(self._keys.items, count=_PAGE)
            for item in (_decode(raw),)
        }
        self._seen = int(seen or 0)
        self._cursor = _text(last[0][0]) if last else "0-0"
        return items

    def follow(self) -> CatalogueChange:
        """What changed since the last call (or since `load`), at most 1,000 changes at a time."""
        pipe = self._client.pipeline(transaction=True)
        pipe.hget(self._keys.stats, "item_changes")
        pipe.xrange(self._keys.item_changes, min=f"({self._cursor}", count=_PAGE)
        total, entries = pipe.execute()
        changes = [(_text(entry_id), {_text(k): _text(v) for k, v in fields.items()}) for entry_id, fields in entries]
        if self._has_gap(int(total or 0), [int(fields["n"]) for _, fields in changes]):
            return CatalogueChange({}, frozenset(), reloaded=self.load())
        if not changes:
            return CatalogueChange({}, frozenset())
        touched = list({fields["item_id"]: None for _, fields in changes})
        found: list[Any] = self._client.hmget(self._keys.items, touched)
        self._seen += len(changes)
        self._cursor = changes[-1][0]
        put = {item_id: _decode(raw) for item_id, raw in zip(touched, found, strict=True) if raw is not None}
        return CatalogueChange(put, frozenset(touched) - put.keys())

    def _has_gap(self, total: int, numbers: list[int]) -> bool:
        if not numbers:
            return total != self._seen
        return numbers[0] != self._seen + 1 or total < numbers[-1]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
