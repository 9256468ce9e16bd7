"""Importing and world making, from source to saved folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.data.commands import import_data, make_world
from recsys.data.dataset import Dataset
from recsys.errors import DataFileError, InputError

NOW = 1_790_000_000_000


def test_import_of_a_movielens_folder(ml_100k: Path, tmp_path: Path) -> None:
    imported = import_data(ml_100k, tmp_path / "out")
    assert Dataset.load(tmp_path / "out").interactions.equals(imported.interactions)


def test_import_of_a_mapped_file(write: Callable[..., Path], tmp_path: Path) -> None:
    source = write("log.csv", "who;sku;at\na;x;1714564800\n")
    mapping = {"user": "who", "item": "sku", "ts": "at"}
    import_data(source, tmp_path / "out", mapping, separator=";", time_unit="s")
    assert Dataset.load(tmp_path / "out").interactions["ts"].to_list() == [1_714_564_800_000]


def test_a_file_without_mapping_lists_its_columns(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"expected a mapping of columns .*; the columns are 'who', 'sku'"):
        import_data(write("log.csv", "who,sku\na,x\n"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_sources(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="no such file or folder"):
        import_data(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataFileError, match="expected a file, found a folder"):
        import_data(tmp_path, tmp_path / "out", {"user": "u", "item": "i"})


def test_make_world_writes_data_and_tastes(tmp_path: Path) -> None:
    made = make_world(tmp_path, users=50, items=64, days=5, seed=3, now_ms=NOW)
    assert Dataset.load(tmp_path).interactions.equals(made.interactions)
    tastes = json.loads((tmp_path / "tastes.json").read_text())
    assert len(tastes["users"]) == 50
    assert len(tastes["items"]) == 64


def test_make_world_refuses_wrong_sizes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="users: 0 is not from 1"):
        make_world(tmp_path / "out", users=0, now_ms=NOW)
    with pytest.raises(InputError, match="days: 0 is not above 0"):
        make_world(tmp_path / "out", days=0, now_ms=NOW)
