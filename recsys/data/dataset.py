"""A data set in memory and as a folder of three parquet files and `dataset.json` (tables: `recsys.data.schema`).

`dataset.json` is written last, so a folder that has it is complete:

    format    1
    name      where the data came from, for people
    ts        "time" for real times, "order" for artificial ones that only keep the order
    rows      {"interactions": n, "items": n, "users": n}
    ...       whatever else the source wants to tell
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import polars as pl

from recsys.data.schema import INTERACTIONS, ITEMS, KIND, USERS
from recsys.data.source_table import read_parquet
from recsys.errors import DataFileError
from recsys.events.schema import ID_MAX, KINDS, TS_MIN_MS

FORMAT = 1
_TABLES = {"interactions": INTERACTIONS, "items": ITEMS, "users": USERS}


@dataclass(frozen=True, slots=True)
class Dataset:
    """Interactions in time order, the items and the users they name, and what is known about their source."""

    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Where the data came from."""
        return str(self.meta.get("name", "unnamed"))

    @property
    def has_times(self) -> bool:
        """False if `ts` only keeps the order of events."""
        return self.meta.get("ts") == "time"

    @classmethod
    def build(
        cls,
        interactions: pl.DataFrame,
        *,
        meta: Mapping[str, Any],
        items: pl.DataFrame | None = None,
        users: pl.DataFrame | None = None,
    ) -> Self:
        """Sort interactions by time (ties keep their order) and complete the tables.

        An item or user that only the interactions name gets a row of its own: its id as title, no categories.
        """
        interactions = interactions.select(pl.col(c).cast(t) for c, t in INTERACTIONS.items()).sort(
            "ts", maintain_order=True
        )
        return cls(
            interactions,
            _completed(items, interactions["item_id"], ITEMS, {"title": pl.col("item_id"), "categories": pl.lit([])}),
            _completed(users, interactions["user_id"], USERS, {"attributes": pl.lit("{}")}),
            {"format": FORMAT, **meta},
        )

    def save(self, folder: Path | str) -> None:
        """Write the folder; a data set that was there is replaced."""
        folder = Path(folder)
        _check_dataset(folder, self)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dataset.json").unlink(missing_ok=True)
        for name in _TABLES:
            getattr(self, name).write_parquet(folder / f"{name}.parquet")
        rows = {name: getattr(self, name).height for name in _TABLES}
        meta = {"format": FORMAT, **self.meta, "rows": rows}
        (folder / "dataset.json").write_text(json.dumps(meta, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read and check a folder that `save` wrote.

        Raises:
            DataFileError: naming the file, the column or row, and what was expected.
        """
        folder = Path(folder)
        meta = _read_meta(folder)
        frames = {name: _read_table(folder / f"{name}.parquet", schema) for name, schema in _TABLES.items()}
        for name, rows in meta["rows"].items():
            if name in frames and frames[name].height != rows:
                raise DataFileError(
                    folder / f"{name}.parquet", f"dataset.json says {rows} rows, found {frames[name].height}"
                )
        dataset = cls(frames["interactions"], frames["items"], frames["users"], meta)
        _check_dataset(folder, dataset)
        return dataset


def _completed(
    known: pl.DataFrame | None, used: pl.Series, schema: Mapping[str, Any], defaults: Mapping[str, pl.Expr]
) -> pl.DataFrame:
    """The known rows, then one for each id that is used but not known, in order of first use."""
    key = used.name
    empty = pl.DataFrame(schema=schema)
    known = empty if known is None else known.select(pl.col(c).cast(t) for c, t in schema.items())
    missing = used.unique(maintain_order=True).to_frame().join(known, on=key, how="anti", maintain_order="left")
    new = missing.with_columns(**defaults)
    return pl.concat(
        [known, pl.concat([empty, new], how="diagonal_relaxed").select(pl.col(c).cast(t) for c, t in schema.items())]
    )


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    if not folder.is_dir():
        raise DataFileError(folder, "expected a data set folder (make one with `recsys import` or `recsys world`)")
    if not path.is_file():
        raise DataFileError(path, "no such file; the folder holds no data set, or its writing was interrupted")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataFileError(path, f"expected JSON: {error}") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("rows"), dict):
        raise DataFileError(path, "expected a JSON map with the number of rows per table", column="rows")
    if meta.get("format") != FORMAT:
        raise DataFileError(path, f"expected format {FORMAT}, found {meta.get('format')!r}", column="format")
    if meta.get("ts") not in ("time", "order"):
        raise DataFileError(path, f"expected 'time' or 'order', found {meta.get('ts')!r}", column="ts")
    return meta


def _read_table(path: Path, schema: Mapping[str, Any]) -> pl.DataFrame:
    table = read_parquet(path)
    table.require(list(schema))
    frame = table.frame.select(list(schema))
    for column, expected in schema.items():
        found = frame.schema[column]
        if expected == KIND and found == pl.String:  # other writers of parquet know no enums
            table.fail_where(~frame[column].is_in(KINDS).fill_null(False), column, f"one of {', '.join(KINDS)}")
        elif found != expected:
            raise DataFileError(path, f"expected the type {expected}, found {found}", column=column)
    return frame.select(pl.col(c).cast(t) for c, t in schema.items())


def _check_dataset(folder: Path, dataset: Dataset) -> None:
    interactions, items, users = dataset.interactions, dataset.items, dataset.users
    for name, schema in _TABLES.items():
        frame: pl.DataFrame = getattr(dataset, name)
        if dict(frame.schema) != schema:
            raise DataFileError(folder / f"{name}.parquet", f"expected {schema}, found {dict(frame.schema)}")
    path = folder / "interactions.parquet"
    _check_rows(path, interactions, "kind", pl.col("kind").is_not_null(), f"one of {', '.join(KINDS)}")
    _check_rows(path, interactions, "value", pl.col("value").is_finite().fill_null(True), "a finite number or null")
    _check_rows(path, interactions, "ts", pl.col("ts") >= TS_MIN_MS, "Unix milliseconds from March 1973 on")
    _check_rows(path, interactions, "ts", (pl.col("ts").diff() >= 0).fill_null(True), "rows in time order")
    for name, frame, key in (("items", items, "item_id"), ("users", users, "user_id")):
        owner = folder / f"{name}.parquet"
        _check_rows(owner, frame, key, pl.col(key).str.len_chars().is_between(1, ID_MAX), f"1 to {ID_MAX} characters")
        _check_rows(owner, frame, key, pl.col(key).is_first_distinct(), "every id once")
        _check_rows(path, interactions, key, pl.col(key).is_in(frame[key].implode()), f"an id that {name}.parquet has")
    path = folder / "items.parquet"
    _check_rows(path, items, "title", pl.col("title").is_not_null(), "a title")
    _check_rows(path, items, "categories", ~pl.col("categories").list.contains(None), "a list without nulls")
    path = folder / "users.parquet"
    _check_rows(path, users, "attributes", pl.col("attributes").is_not_null(), "a JSON map")
    for row, text in enumerate(users["attributes"]):
        if text != "{}" and not _is_json_map(text):
            raise DataFileError(path, f"row {row + 1}: expected a JSON map, found {text[:40]!r}", column="attributes")


def _check_rows(path: Path, frame: pl.DataFrame, column: str, right: pl.Expr, expected: str) -> None:
    """Raise about the first row where `right` is false or null."""
    wrong = frame.select(~right.fill_null(False)).to_series()
    if wrong.any():
        row = wrong.arg_max()
        assert row is not None
        found = str(frame[column][row])[:40]
        raise DataFileError(path, f"row {row + 1}: expected {expected}, found {found!r}", column=column)


def _is_json_map(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
