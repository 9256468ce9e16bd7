"""An engine that loads the catalogue and follows it has the catalogue, whatever happens in between."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from recsys.errors import NotFoundError
from recsys.state import items
from recsys.state.client import writer
from recsys.state.items import CatalogueFeed, ItemReader


@pytest.fixture
def feed(stream: Any) -> CatalogueFeed:
    return CatalogueFeed(writer(stream.settings.redis), stream.keys)


def test_load_then_follow(stream: Any, feed: CatalogueFeed) -> None:
    stream.add(type="item", item_id="i1", title="One", attributes='{"year": 1998}')
    stream.settle()
    loaded = feed.load()
    assert {item_id: item.title for item_id, item in loaded.items()} == {"i1": "One"}
    stream.add(type="item", item_id="i2", title="Two")
    stream.add(type="item", item_id="i3", title="Three")
    stream.add(type="item_delete", item_id="i1")
    stream.add(type="item_delete", item_id="i3")
    stream.settle()
    change = feed.follow()
    assert {item_id: item.title for item_id, item in change.put.items()} == {"i2": "Two"}
    assert (change.deleted, change.reloaded) == ({"i1", "i3"}, None)
    assert feed.follow() == items.CatalogueChange({}, frozenset())


def test_a_follower_that_was_away_too_long_loads_again(stream: Any, feed: CatalogueFeed) -> None:
    feed.load()
    for n in range(5):
        stream.add(type="item", item_id=f"i{n}", title="x")
    stream.settle()
    stream.redis.xtrim(stream.keys.item_changes, maxlen=3, approximate=False)
    assert set(feed.follow().reloaded or ()) == {f"i{n}" for n in range(5)}
    assert feed.follow() == items.CatalogueChange({}, frozenset())


def test_a_change_stream_that_is_gone_is_a_gap(stream: Any, feed: CatalogueFeed) -> None:
    feed.load()
    stream.add(type="item", item_id="i1", title="x")
    stream.settle()
    stream.redis.delete(stream.keys.item_changes)
    assert set(feed.follow().reloaded or ()) == {"i1"}


def test_a_redis_that_lost_its_data_is_a_gap(stream: Any, feed: CatalogueFeed) -> None:
    for n in range(3):
        stream.add(type="item", item_id=f"i{n}", title="x")
    stream.settle()
    assert len(feed.load()) == 3
    stream.redis.flushall()
    assert feed.follow().reloaded == {}
    stream.add(type="item", item_id="new", title="x")
    stream.eventually(lambda: stream.redis.hexists(stream.keys.items, "new"), what="worker goes on after a flush")
    assert set(feed.follow().put) == {"new"}


def test_more_changes_than_one_page(stream: Any, feed: CatalogueFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "_PAGE", 10)
    feed.load()
    for n in range(25):
        stream.add(type="item", item_id=f"i{n}", title="x")
    stream.settle()
    assert [len(feed.follow().put) for _ in range(4)] == [10, 10, 5, 0]


def test_lookup_by_id(stream: Any) -> None:
    stream.add(type="item", item_id="i1", title="One")
    stream.settle()

    async def lookups(client: redis.asyncio.Redis) -> None:
        reader = ItemReader(client, stream.keys)
        assert await reader.size() == 1
        assert set(await reader.get_items(["i1", "nothing", "i1"])) == {"i1"}
        assert await reader.get_items([]) == {}
        with pytest.raises(NotFoundError, match="no item 'nothing'"):
            await reader.get_item("nothing")
        with pytest.raises(ValueError, match="at most 10000"):
            await reader.get_items(["x"] * 10_001)

    stream.read(lookups)


def test_counters_and_popularity_stop_growing_at_their_bounds(
    make_stream: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.state.apply.ITEMS_COUNTED_MAX", 20)
    monkeypatch.setattr("recsys.state.apply.POPULAR_TRACKED_MAX", 20)
    stream = make_stream()
    stream.start_worker()
    for _ in range(3):
        stream.interact("u1", "favourite", "purchase")
    for n in range(100):
        stream.interact("u1", f"i{n}")
    stream.settle()
    assert stream.redis.hlen(stream.keys.item_counts) == 20
    assert 10 <= stream.redis.zcard(stream.keys.popular_all) <= 20
    assert stream.redis.zrevrange(stream.keys.popular_all, 0, 0) == ["favourite"]
