"""What `recsys import` and `recsys world` do: make a data set folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from recsys.data.columns import columns_of, read_table
from recsys.data.dataset import Dataset
from recsys.data.movielens import read_movielens
from recsys.data.times import TimeUnit
from recsys.errors import DataFileError


def import_data(
    source: Path,
    out: Path,
    mapping: Mapping[str, str] | None = None,
    *,
    time_unit: TimeUnit = "auto",
    separator: str | None = None,
    encoding: str = "utf-8",
) -> Dataset:
    """Read a MovieLens folder, or any csv or parquet file by a column mapping, and save it as a data set.

    Args:
        source: folder (MovieLens) or file (then `mapping` is required).
        out: data set folder to write.
        mapping: see `recsys.data.columns.read_table`, as are the other arguments.

    Raises:
        DataFileError: naming the file, the line or column, and what was expected.
        InputError: a mapping that makes no sense.
    """
    if not source.exists():
        raise DataFileError(source, "no such file or folder")
    if mapping:
        dataset = read_table(source, mapping, time_unit=time_unit, separator=separator, encoding=encoding)
    elif source.is_dir():
        dataset = read_movielens(source)
    else:
        _fail_without_mapping(source)
    dataset.save(out)
    return dataset


def make_world(
    out: Path,
    users: int = 2_000,
    items: int = 1_200,
    days: int = 60,
    seed: int = 0,
    *,
    now_ms: int,
    progress: bool = False,
) -> Dataset:
    """Make a synthetic world, save its interactions as a data set and its tastes as `tastes.json` in the same folder.

    Args:
        out: data set folder to write.
        users, items: size of the world.
        days: length of its history, which ends at `now_ms` (Unix ms).
        seed: the same arguments always make the same world.
        progress: show a progress bar.

    Raises:
        InputError: a size outside its bounds.
    """
    from recsys.world import FlashCrowd, World, WorldConfig  # numpy comes with the engine extra only

    world = World(WorldConfig(users=users, items=items, seed=seed))
    crowd = FlashCrowd.within_history(world.config, days=days, now_ms=now_ms)
    dataset = world.dataset(days, now_ms=now_ms, crowds=[crowd], progress=progress)
    dataset.save(out)
    world.export_tastes(out / "tastes.json", now_ms=now_ms)
    return dataset


def _fail_without_mapping(path: Path) -> NoReturn:
    there = ", ".join(map(repr, columns_of(path)[:50]))
    raise DataFileError(path, f"expected a mapping of columns (user=..., item=..., ts=...); the columns are {there}")
