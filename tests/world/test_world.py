"""The world as a whole: reproducible, within its bounds, and worth learning from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recsys.data.dataset import Dataset
from recsys.data.schema import ITEMS, USERS
from recsys.data.splits import leave_one_out
from recsys.errors import InputError
from recsys.events.schema import KINDS
from recsys.world import FlashCrowd, World, WorldConfig

NOW = 1_790_000_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def history(world: World) -> Dataset:
    return world.dataset(60, now_ms=NOW)


def test_default_size(history: Dataset) -> None:
    assert 120_000 <= history.interactions.height <= 180_000
    assert (history.users.height, history.items.height) == (2_000, 1_200)
    assert set(history.interactions["kind"].unique()) == set(KINDS)
    first, last = history.interactions.select(first=pl.col("ts").min(), last=pl.col("ts").max()).row(0)
    assert NOW - 60 * DAY_MS <= first < NOW - 59 * DAY_MS
    assert NOW - DAY_MS < last <= NOW


def test_a_history_is_a_valid_data_set(history: Dataset, tmp_path: Path) -> None:
    history.save(tmp_path)
    assert_frame_equal(Dataset.load(tmp_path).interactions, history.interactions)


def test_items_and_users(world: World) -> None:
    assert dict(world.items.schema) == ITEMS
    assert dict(world.users.schema) == USERS
    assert world.items["title"].n_unique() == 1_200
    counts = world.items["categories"].list.len()
    assert (counts.min(), counts.max()) == (1, 3)
    assert set(world.items["categories"].explode()) == set(world.config.category_names)
    assert world.items["categories"].list.n_unique().equals(counts)
    assert world.items["year"].is_between(1930, 2025).all()


def test_the_same_seed_makes_the_same_world() -> None:
    config = WorldConfig(users=80, items=64, categories=4, seed=5)
    one, other = World(config), World(config)
    crowd = FlashCrowd.within_history(config, days=10, now_ms=NOW)
    history = one.dataset(10, now_ms=NOW, crowds=[crowd])
    for again in (one.dataset(10, now_ms=NOW, crowds=[crowd]), other.dataset(10, now_ms=NOW, crowds=[crowd])):
        assert_frame_equal(again.interactions, history.interactions)
    assert_frame_equal(one.items, other.items)
    different = World(WorldConfig(users=80, items=64, categories=4, seed=6))
    assert not different.items["title"].equals(one.items["title"])
    assert not different.dataset(10, now_ms=NOW).interactions.equals(history.interactions)


def test_a_longer_history_keeps_the_catalogue() -> None:
    world = World(WorldConfig(users=50, items=64))
    assert_frame_equal(world.dataset(5, now_ms=NOW).items, world.dataset(20, now_ms=NOW + DAY_MS).items)


def test_nobody_meets_an_item_twice(history: Dataset) -> None:
    assert not history.interactions.select("user_id", "item_id").is_duplicated().any()


def test_popularity_has_a_long_tail(history: Dataset) -> None:
    counts = history.interactions["item_id"].value_counts()["count"].sort(descending=True)
    assert counts.head(120).sum() > 0.25 * counts.sum(), "a tenth of the items has far more than a tenth of the events"
    assert counts.len() > 1_100, "the tail is visited too"
    assert counts[0] > 10 * counts[1_000]


def test_tastes_are_shares_that_drift(world: World) -> None:
    now, later = world.tastes(NOW), world.tastes(NOW + 60 * DAY_MS)
    assert now.shape == (2_000, 16)
    np.testing.assert_allclose(now.sum(axis=1), 1.0)
    assert (now > 0).all()
    moved = np.abs(now - later).sum(axis=1) / 2
    assert 0.1 < moved.mean() < 0.9
    soon = np.abs(now - world.tastes(NOW + HOUR_MS)).sum(axis=1) / 2
    assert soon.max() < 0.01, "drift, not jumps"


def test_users_follow_their_taste(world: World, history: Dataset) -> None:
    names = world.config.category_names
    main = dict(zip(world.items["item_id"], world.items["categories"].list.first(), strict=True))
    tastes = world.tastes(NOW - 30 * DAY_MS)
    shares = []
    for user, events in history.interactions.group_by("user_id"):
        if events.height >= 50:
            taste = tastes[int(str(user[0])[1:])]
            liked = {names[c] for c in np.argsort(-taste)[:3]}
            shares.append(np.mean([main[item] in liked for item in events["item_id"]]))
    assert np.mean(shares) > 0.45, "three of sixteen categories would be 19 % by chance"


def test_sessions_stay_with_a_topic(world: World, history: Dataset) -> None:
    topic = dict(zip(world.catalogue.ids, world.catalogue.topic_I.tolist(), strict=True))
    steps = history.interactions.sort("user_id", "ts", maintain_order=True).with_columns(
        topic=pl.col("item_id").replace_strict(topic)
    )
    inside = (pl.col("ts").diff() < 30 * 60_000) & (pl.col("user_id") == pl.col("user_id").shift())
    stays = steps.with_columns(stayed=pl.col("topic") == pl.col("topic").shift()).filter(inside)["stayed"].mean()
    apart = steps["topic"].shuffle(seed=0)
    by_chance = (apart == apart.shift()).mean()
    assert isinstance(stays, float)
    assert isinstance(by_chance, float)
    assert stays > 0.4 > 10 * by_chance


def test_stronger_kinds_go_with_stronger_affinity(world: World, history: Dataset) -> None:
    user = history.interactions["user_id"].str.slice(1).cast(pl.Int64).to_numpy()
    item = history.interactions["item_id"].str.slice(1).cast(pl.Int64).to_numpy()
    affinity = (world.population.latent_UD[user] * world.catalogue.latent_ID[item]).sum(axis=1)
    mean = dict(
        history.interactions.select("kind")
        .with_columns(affinity=pl.Series(affinity))
        .group_by("kind")
        .agg(pl.col("affinity").mean())
        .iter_rows()
    )
    assert mean["hide"] < mean["view"] < mean["click"] < mean["like"] < mean["purchase"]


def test_what_came_last_tells_more_than_what_is_popular(history: Dataset) -> None:
    """Full-rank HR@10 of the last event, seen items left out: the base for every claim about learning."""
    split = leave_one_out(history.interactions)
    items = {id_: i for i, id_ in enumerate(history.items["item_id"])}
    train = [
        (str(user[0]), np.array([items[i] for i in events["item_id"]]))
        for user, events in split.train.group_by("user_id", maintain_order=True)
    ]
    popularity = np.zeros(len(items))
    follows = np.zeros((len(items), len(items)))
    for _, seen in train:
        popularity[seen] += 1
        np.add.at(follows, (seen[:-1], seen[1:]), 1)
    wanted = dict(split.test.select("user_id", "item_id").iter_rows())
    hits = {"popularity": 0, "last item": 0}
    for user, seen in train:
        if user not in wanted:
            continue
        scores = {"popularity": popularity.copy(), "last item": follows[seen[-1]] + 1e-6 * popularity}
        for name, score in scores.items():
            score[seen] = -1.0
            hits[name] += items[wanted[user]] in np.argsort(-score)[:10]
    assert hits["last item"] > 4 * hits["popularity"]
    assert hits["popularity"] > 3 * 10 / len(items) * len(wanted), "popularity tells more than chance"


def test_a_flash_crowd_multiplies_its_category_for_its_time() -> None:
    world = World(WorldConfig(events_per_user_day=4.0, seed=1))
    crowd = FlashCrowd(category="Western", start_ms=NOW - 2 * DAY_MS, end_ms=NOW - DAY_MS, factor=30.0)
    calm = world.dataset(4, now_ms=NOW)
    burst = world.dataset(4, now_ms=NOW, crowds=[crowd])

    def share(dataset: Dataset) -> float:
        during = dataset.interactions.filter(pl.col("ts").is_between(crowd.start_ms, crowd.end_ms - 1))
        mean = during.join(dataset.items, on="item_id")["categories"].list.contains(crowd.category).mean()
        assert isinstance(mean, float)
        return mean

    assert share(burst) > 4 * share(calm)
    before = pl.col("ts") < crowd.start_ms
    assert_frame_equal(burst.interactions.filter(before), calm.interactions.filter(before))
    assert burst.meta["flash_crowds"][0]["category"] == "Western"


def test_exported_tastes(tmp_path: Path) -> None:
    world = World(WorldConfig(users=30, items=40, categories=5, seed=2))
    path = tmp_path / "tastes.json"
    world.export_tastes(path, now_ms=NOW)
    tastes = json.loads(path.read_text())
    assert tastes["categories"] == list(world.config.category_names)
    assert [item["id"] for item in tastes["items"]] == world.items["item_id"].to_list()
    assert [item["categories"] for item in tastes["items"]] == world.items["categories"].to_list()
    assert sum(item["weight"] for item in tastes["items"]) == pytest.approx(1, abs=0.01)
    assert [user["id"] for user in tastes["users"]] == world.users["user_id"].to_list()
    for user, taste in zip(tastes["users"], world.tastes(NOW), strict=True):
        assert set(user["taste"]) <= set(tastes["categories"])
        assert user["taste"] == pytest.approx(dict(zip(tastes["categories"], taste, strict=True)), abs=1e-4)
        assert user["activity"] > 0


def test_more_users_than_one_block() -> None:
    history = World(WorldConfig(users=5_000, items=64, events_per_user_day=0.5)).dataset(2, now_ms=NOW)
    users = history.interactions["user_id"].str.slice(1).cast(pl.Int64)
    assert users.max() is not None
    assert (users > 4_096).any()
    assert not history.interactions.select("user_id", "item_id").is_duplicated().any()


def test_users_who_have_met_everything_stop() -> None:
    history = World(WorldConfig(users=3, items=32, categories=2, events_per_user_day=100)).dataset(10, now_ms=NOW)
    assert history.interactions.height <= 3 * 32
    assert history.interactions.height > 2 * 32


def test_the_smallest_world() -> None:
    history = World(WorldConfig(users=1, items=32, categories=2, seed=1)).dataset(60, now_ms=NOW)
    assert history.users.height == 1


def test_progress_does_not_change_the_history(capsys: pytest.CaptureFixture[str]) -> None:
    world = World(WorldConfig(users=20, items=40))
    shown = world.dataset(5, now_ms=NOW, progress=True)
    assert "Living through the history" in capsys.readouterr().out
    assert_frame_equal(shown.interactions, world.dataset(5, now_ms=NOW).interactions)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"users": 0}, "users: 0 is not from 1 to"),
        ({"items": 31}, "items: 31 is not from 32 to"),
        ({"categories": 17}, "categories: 17 is not from 2 to 16"),
        ({"categories": 1}, "categories: 1 is not from 2 to 16"),
        ({"seed": -1}, "seed: -1 is not from 0 to"),
        ({"events_per_user_day": 0.0}, "events_per_user_day: 0.0 is not from"),
        ({"events_per_user_day": float("nan")}, "events_per_user_day: nan is not from"),
        ({"events_per_session": 0.5}, "events_per_session: 0.5 is not from 1 to 100"),
    ],
)
def test_wrong_configs(changes: dict[str, int], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        WorldConfig(**changes)


def test_wrong_histories() -> None:
    world = World(WorldConfig(users=1, items=32, categories=2))
    with pytest.raises(InputError, match="days: 0 is not above 0"):
        world.dataset(0, now_ms=NOW)
    with pytest.raises(InputError, match="days: 9999 is not above 0 and at most 3650"):
        world.dataset(9999, now_ms=NOW)
    with pytest.raises(InputError, match="now_ms: 1790000000 is too early"):
        world.dataset(1, now_ms=NOW // 1_000)
    with pytest.raises(InputError, match="nothing happens in"):
        world.dataset(1e-6, now_ms=NOW)
    with pytest.raises(InputError, match="category: 'Spy' is not one of Space, Mystery"):
        world.dataset(1, now_ms=NOW, crowds=[FlashCrowd(category="Spy", start_ms=NOW, end_ms=NOW + 1)])


def test_wrong_crowds() -> None:
    with pytest.raises(InputError, match="end_ms: 5 is not after start_ms 5"):
        FlashCrowd(category="Spy", start_ms=5, end_ms=5)
    with pytest.raises(InputError, match=r"factor: 0\.5 is not from 1"):
        FlashCrowd(category="Spy", start_ms=5, end_ms=6, factor=0.5)
