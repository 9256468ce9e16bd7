"""The data set folder: what is saved is loaded, and a damaged folder is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recsys.data.dataset import Dataset
from recsys.data.schema import INTERACTIONS, ITEMS, USERS
from recsys.errors import DataFileError

T = 1_700_000_000_000


def small() -> Dataset:
    interactions = pl.DataFrame(
        {
            "user_id": ["u1", "u2", "u1"],
            "item_id": ["a", "b", "b"],
            "kind": ["view", "like", "hide"],
            "value": [None, 4.5, None],
            "ts": [T + 2, T, T + 2],
        }
    )
    items = pl.DataFrame({"item_id": ["a"], "title": ["The A"], "categories": [["x", "y"]], "year": [1999]})
    return Dataset.build(interactions, items=items, meta={"name": "small", "ts": "time", "note": "é"})


def test_build_sorts_and_completes() -> None:
    dataset = small()
    assert dataset.interactions["ts"].to_list() == [T, T + 2, T + 2]
    assert dataset.interactions["item_id"].to_list() == ["b", "a", "b"]
    assert dataset.items.rows() == [("a", "The A", ["x", "y"], 1999), ("b", "b", [], None)]
    assert dataset.users.rows() == [("u2", "{}"), ("u1", "{}")]
    for frame, schema in ((dataset.interactions, INTERACTIONS), (dataset.items, ITEMS), (dataset.users, USERS)):
        assert dict(frame.schema) == schema


def test_saved_is_loaded(tmp_path: Path) -> None:
    dataset = small()
    dataset.save(tmp_path / "deep" / "folder")
    loaded = Dataset.load(tmp_path / "deep" / "folder")
    for name in ("interactions", "items", "users"):
        assert_frame_equal(getattr(loaded, name), getattr(dataset, name))
    assert loaded.name == "small"
    assert loaded.has_times
    assert loaded.meta["note"] == "é"
    assert loaded.meta["rows"] == {"interactions": 3, "items": 2, "users": 2}


def test_an_old_data_set_is_replaced(tmp_path: Path) -> None:
    small().save(tmp_path)
    shorter = Dataset.build(small().interactions.head(1), meta={"name": "shorter", "ts": "order"})
    shorter.save(tmp_path)
    assert Dataset.load(tmp_path).interactions.height == 1


def test_kinds_as_plain_text_are_accepted(tmp_path: Path) -> None:
    small().save(tmp_path)
    path = tmp_path / "interactions.parquet"
    pl.read_parquet(path).cast({"kind": pl.String}).write_parquet(path)
    assert Dataset.load(tmp_path).interactions.schema["kind"] == INTERACTIONS["kind"]


Change = Callable[[pl.DataFrame], pl.DataFrame]


def _set(column: str, row: int, value: object) -> Change:
    def change(frame: pl.DataFrame) -> pl.DataFrame:
        values = frame[column].to_list()
        values[row] = value
        return frame.with_columns(pl.Series(column, values, dtype=frame.schema[column]))

    return change


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("interactions", lambda f: f.drop("ts"), "interactions.parquet, column 'ts': no such column; the columns are"),
        ("interactions", lambda f: f.cast({"ts": pl.Float64}), "column 'ts': expected the type Int64, found Float64"),
        ("interactions", _set("ts", 0, T + 9), "column 'ts': row 2: expected rows in time order"),
        ("interactions", _set("ts", 0, T // 1000), "column 'ts': row 1: expected Unix milliseconds"),
        ("interactions", _set("ts", 1, None), "column 'ts': row 2: expected Unix milliseconds"),
        ("interactions", _set("kind", 1, None), "column 'kind': row 2: expected one of view"),
        ("interactions", _set("value", 1, float("nan")), "column 'value': row 2: expected a finite number"),
        ("interactions", _set("item_id", 2, "zz"), "column 'item_id': row 3: expected an id that items.parquet has"),
        ("interactions", _set("user_id", 0, None), "column 'user_id': row 1: expected an id that users.parquet has"),
        ("interactions", lambda f: f.head(2), "interactions.parquet: dataset.json says 3 rows, found 2"),
        (
            "interactions",
            lambda f: _set("kind", 0, "love")(f.cast({"kind": pl.String})),
            "column 'kind': row 1: expected one of view, .*'love'",
        ),
        ("items", _set("item_id", 1, "a"), "items.parquet, column 'item_id': row 2: expected every id once"),
        ("items", _set("item_id", 1, ""), "items.parquet, column 'item_id': row 2: expected 1 to 128 characters"),
        ("items", _set("title", 0, None), "column 'title': row 1: expected a title"),
        ("items", _set("categories", 0, None), "column 'categories': row 1: expected a list without nulls"),
        ("items", _set("categories", 0, ["x", None]), "column 'categories': row 1: expected a list without nulls"),
        ("users", _set("attributes", 1, "[1]"), "column 'attributes': row 2: expected a JSON map"),
        ("users", _set("attributes", 1, "{"), "column 'attributes': row 2: expected a JSON map"),
        ("users", _set("user_id", 1, None), "column 'user_id': row 2: expected 1 to 128 characters"),
    ],
)
def test_damaged_tables(tmp_path: Path, name: str, change: Change, expected: str) -> None:
    small().save(tmp_path)
    path = tmp_path / f"{name}.parquet"
    change(pl.read_parquet(path)).write_parquet(path)
    with pytest.raises(DataFileError, match=expected):
        Dataset.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "dataset.json: expected JSON"),
        ("[]", "column 'rows': expected a JSON map"),
        (json.dumps({"format": 1, "ts": "time", "rows": 3}), "column 'rows'"),
        (json.dumps({"format": 2, "ts": "time", "rows": {}}), "column 'format': expected format 1, found 2"),
        (
            json.dumps({"format": 1, "ts": "clock", "rows": {}}),
            "column 'ts': expected 'time' or 'order', found 'clock'",
        ),
    ],
)
def test_damaged_description(tmp_path: Path, content: str, expected: str) -> None:
    small().save(tmp_path)
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataFileError, match=expected):
        Dataset.load(tmp_path)


def test_missing_parts(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="expected a data set folder"):
        Dataset.load(tmp_path / "nowhere")
    with pytest.raises(DataFileError, match=r"dataset.json: no such file"):
        Dataset.load(tmp_path)
    small().save(tmp_path)
    (tmp_path / "users.parquet").write_bytes((tmp_path / "users.parquet").read_bytes()[:-20])
    with pytest.raises(DataFileError, match=r"users.parquet: expected a parquet file"):
        Dataset.load(tmp_path)
    (tmp_path / "users.parquet").unlink()
    with pytest.raises(DataFileError, match=r"users.parquet: no such file"):
        Dataset.load(tmp_path)


def test_a_wrong_data_set_is_not_saved(tmp_path: Path) -> None:
    dataset = small()
    broken = Dataset(dataset.interactions.reverse(), dataset.items, dataset.users, dataset.meta)
    with pytest.raises(DataFileError, match="rows in time order"):
        broken.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
