"""A data set goes through the public stream and comes out as state."""

import io
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from recsys.data.dataset import Dataset
from recsys.errors import InputError
from recsys.events.replay import publish_catalogue, replay
from recsys.state.client import writer
from recsys.state.items import CatalogueFeed

BASE_MS = 1_700_000_000_000


def dataset(n: int = 1_000) -> Dataset:
    interactions = pl.DataFrame(
        {
            "user_id": [f"u{row % 7}" for row in range(n)],
            "item_id": [f"i{row % 11}" for row in range(n)],
            "kind": ["like" if row % 3 else "view" for row in range(n)],
            "value": [None if row % 2 else 4.5 for row in range(n)],
            "ts": [BASE_MS + row // 5 for row in range(n)],
        }
    )
    items = pl.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(11)],
            "title": [f"Title {n}" for n in range(11)],
            "categories": [["a", "b"][: n % 3] for n in range(11)],
            "year": [None if n == 3 else 1990 + n for n in range(11)],
        }
    )
    return Dataset.build(interactions, items=items, meta={"name": "test", "ts": "time"})


def test_the_catalogue(stream: Any) -> None:
    for _ in range(2):
        assert publish_catalogue(dataset(), stream.settings) == 11
    stream.settle()
    items = CatalogueFeed(writer(stream.settings.redis), stream.keys).load()
    assert len(items) == 11
    five = items["i5"]
    assert (five.title, five.categories, five.attributes) == ("Title 5", ("a", "b"), {"year": 1995})
    assert items["i3"].attributes == {}


def test_interactions_arrive_in_order_and_once(stream: Any) -> None:
    screen = io.StringIO()
    for _ in range(2):
        assert replay(dataset(), stream.settings, console=Console(file=screen, force_terminal=True)) == 1_000
    assert "1000/1000" in screen.getvalue()
    expected = Counter("like" if row % 3 else "view" for row in range(0, 1_000, 7))
    assert stream.redis.hgetall(stream.keys.counts("u0")) == {kind: str(n) for kind, n in expected.items()}
    history = stream.redis.zrange(stream.keys.history("u0"), 0, -1)
    assert [member.split("|")[2] for member in history] == [f"i{row % 11}" for row in range(0, 1_000, 7)][-120:]
    assert stream.stats()["applied"] == 1_000
    assert stream.stats()["duplicates"] == 1_000


def test_the_newest_only_are_the_same_events(stream: Any) -> None:
    assert replay(dataset(), stream.settings, last=100) == 100
    assert stream.stats()["applied"] == 100
    assert replay(dataset(), stream.settings) == 1_000
    assert stream.stats()["applied"] == 1_000


def test_at_a_rate(stream: Any) -> None:
    began = time.monotonic()
    assert replay(dataset(200), stream.settings, rate_per_s=400) == 200
    assert time.monotonic() - began >= 0.45, "never faster than asked for"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"last": -1}, "last: -1 is negative"),
        ({"rate_per_s": 0.0}, "rate_per_s: 0.0 is not a positive number"),
        ({"rate_per_s": float("inf")}, "rate_per_s: inf is not a positive number"),
        ({"rate_per_s": float("nan")}, "rate_per_s: nan is not a positive number"),
    ],
)
def test_bad_arguments(make_stream: Callable[..., Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replay(dataset(10), make_stream().settings, **arguments)


def test_a_data_set_that_ends_in_the_future(make_stream: Callable[..., Any]) -> None:
    data = dataset(10)
    future = Dataset(data.interactions.with_columns(pl.lit(4_000_000_000_000).alias("ts")), data.items, data.users)
    with pytest.raises(InputError, match="ts: the data set ends at 4000000000000, more than 300000 ms in the future"):
        replay(future, make_stream().settings)


def test_nothing_to_replay(stream: Any) -> None:
    assert replay(dataset(10), stream.settings, last=0) == 0
