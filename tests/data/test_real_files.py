"""The importers on the published files, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from recsys.data.dataset import Dataset
from recsys.data.movielens import read_movielens
from recsys.data.splits import leave_one_out, split_by_time


def read(shared_data: Path, name: str) -> Dataset:
    folder = shared_data / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not at {shared_data}")
    return read_movielens(folder)


def counts(dataset: Dataset) -> tuple[int, int, int]:
    return dataset.interactions.height, dataset.users.height, dataset.items.height


def test_100k(shared_data: Path, tmp_path: Path) -> None:
    dataset = read(shared_data, "ml-100k")
    assert counts(dataset) == (100_000, 943, 1_682)
    assert dataset.interactions["kind"].value_counts().sort("count").rows() == [("click", 44_625), ("like", 55_375)]
    film = dataset.items.row(by_predicate=pl.col("item_id") == "1", named=True)
    assert (film["title"], film["year"]) == ("Toy Story (1995)", 1995)
    assert film["categories"] == ["Animation", "Children's", "Comedy"]
    assert dataset.items["year"].null_count() == 1, "item 267 is called 'unknown'"
    dataset.save(tmp_path)
    assert Dataset.load(tmp_path).interactions.equals(dataset.interactions)
    split = split_by_time(dataset.interactions, test_share=0.1)
    assert split.test.height == 10_000


def test_latest_small(shared_data: Path) -> None:
    dataset = read(shared_data, "ml-latest-small")
    assert counts(dataset) == (100_004, 671, 9_125)
    assert dataset.interactions["value"].n_unique() == 10
    assert dataset.interactions["ts"].is_sorted()


def test_1m_in_order(shared_data: Path) -> None:
    dataset = read(shared_data, "ml-1m-order")
    assert counts(dataset) == (999_601, 6_040, 3_416)
    assert not dataset.has_times
    given = pl.read_parquet(shared_data / "ml-1m-order" / "interactions.parquet")
    assert dataset.interactions["user_id"].equals(given["user_id"].cast(pl.String))
    assert dataset.interactions["item_id"].equals(given["item_id"].cast(pl.String))
    assert dataset.items["title"].str.contains("Léon|Amélie|é").any(), "the catalogue is Latin-1"
    split = leave_one_out(dataset.interactions, validation_users=512)
    assert (split.train.height, split.validation.height, split.test.height) == (993_049, 512, 6_040)
    last = given.group_by("user_id", maintain_order=True).last()
    expected = dict(zip(last["user_id"].cast(pl.String), last["item_id"].cast(pl.String), strict=True))
    assert dict(split.test.select("user_id", "item_id").iter_rows()) == expected
