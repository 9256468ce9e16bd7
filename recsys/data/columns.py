"""Any csv or parquet file of interactions, read by saying which of its columns is which."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from recsys.data.dataset import Dataset
from recsys.data.movielens import order_times
from recsys.data.schema import KIND
from recsys.data.source_table import SourceTable, read_csv, read_parquet
from recsys.data.times import TimeUnit, to_unix_ms
from recsys.errors import InputError
from recsys.events.schema import KINDS, TITLE_MAX

REQUIRED = ("user", "item")
OPTIONAL = ("ts", "kind", "value", "title", "categories")
_VALUE_MAX = 3.0e38  # of a 32-bit float
_CATEGORY_SEPARATOR = "|"


def read_table(
    path: Path | str,
    mapping: Mapping[str, str],
    *,
    kind: str = "click",
    time_unit: TimeUnit = "auto",
    separator: str | None = None,
    encoding: str = "utf-8",
) -> Dataset:
    """Read one file of interactions.

    Args:
        path: `.parquet`, or text with a header line.
        mapping: our name to the file's column: `user` and `item`; optional `ts` (without it the order of rows
            counts), `kind`, `value`, and for the catalogue `title` and `categories` (names joined by `|`).
        kind: of every interaction, if the mapping names no column for it.
        time_unit: of `ts`; the rule of "auto" is in `recsys.data.times`.
        separator: of a text file; by default a tab for `.tsv` and a comma otherwise.
        encoding: of a text file.

    Raises:
        InputError: a mapping or kind that makes no sense.
        DataFileError: naming the file, the line or column, and what was expected.
    """
    path = Path(path)
    _check_mapping(mapping)
    if kind not in KINDS:
        raise InputError(f"kind: {kind!r} is not one of {', '.join(KINDS)}", field="kind")
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise InputError(f"separator: {separator!r} is not one character between fields", field="separator")
    if path.suffix.lower() in (".parquet", ".pq"):
        table = read_parquet(path)
    else:
        by_name = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
        table = read_csv(path, separator=separator or by_name, encoding=encoding)
    table.require(list(mapping.values()))
    rows = table.frame.height
    interactions = pl.DataFrame(
        {
            "user_id": table.ids(mapping["user"]),
            "item_id": table.ids(mapping["item"]),
            "kind": _kinds(table, mapping["kind"]) if "kind" in mapping else pl.repeat(kind, rows, eager=True),
            "value": _values(table, mapping.get("value")),
            "ts": to_unix_ms(table, mapping["ts"], time_unit) if "ts" in mapping else order_times(rows),
        }
    ).cast({"kind": KIND})
    items = _items(table, mapping, interactions["item_id"]) if {"title", "categories"} & set(mapping) else None
    return Dataset.build(
        interactions, items=items, meta={"name": path.name, "ts": "time" if "ts" in mapping else "order"}
    )


def _check_mapping(mapping: Mapping[str, str]) -> None:
    allowed = REQUIRED + OPTIONAL
    for name, column in mapping.items():
        if name not in allowed:
            raise InputError(f"mapping: {name!r} is not one of {', '.join(allowed)}", field=name)
        if not column:
            raise InputError(f"mapping: {name} names no column", field=name)
    for name in REQUIRED:
        if name not in mapping:
            raise InputError(f"mapping: {name} is required ({name}=<column of the file>)", field=name)


def _kinds(table: SourceTable, column: str) -> pl.Series:
    kinds = table.text(column).str.to_lowercase()
    table.fail_where(~kinds.is_in(KINDS).fill_null(False), column, f"one of {', '.join(KINDS)}")
    return kinds


def _values(table: SourceTable, column: str | None) -> pl.Series:
    if column is None:
        return pl.repeat(None, table.frame.height, dtype=pl.Float32, eager=True)
    return table.numbers(column, low=-_VALUE_MAX, high=_VALUE_MAX, optional=True).cast(pl.Float32)


def _items(table: SourceTable, mapping: Mapping[str, str], item_ids: pl.Series) -> pl.DataFrame:
    """The catalogue that interactions carry along: of each item the first title and categories that are given."""
    nothing = pl.repeat(None, item_ids.len(), dtype=pl.String, eager=True)
    titles = table.text(mapping["title"]) if "title" in mapping else nothing
    categories = table.text(mapping["categories"]) if "categories" in mapping else nothing
    first = pl.all().drop_nulls().first()
    frame = pl.DataFrame({"item_id": item_ids, "title": titles, "categories": categories})
    return (
        frame.group_by("item_id", maintain_order=True)
        .agg(first)
        .with_columns(
            title=pl.coalesce("title", "item_id").str.slice(0, TITLE_MAX),
            categories=pl.col("categories")
            .fill_null("")
            .str.split(_CATEGORY_SEPARATOR)
            .list.eval(pl.element().str.strip_chars())
            .list.filter(pl.element() != ""),
            year=pl.lit(None, dtype=pl.Int32),
        )
    )


def columns_of(path: Path | str) -> list[str]:
    """Names of the columns of a csv or parquet file, to help somebody write a mapping."""
    path = Path(path)
    table = read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else read_csv(path)
    return table.frame.columns
