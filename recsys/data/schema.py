"""The one table format that every source of data ends in: a folder with three parquet files.

    interactions.parquet  user_id str, item_id str, kind enum, value f32 (null if none), ts i64 (Unix ms), in time order
    items.parquet         item_id str, title str, categories list[str], year i32 (null if unknown)
    users.parquet         user_id str, attributes str (a JSON map)

`kind` is one of `recsys.events.schema.KINDS`. The order of the rows of interactions is the order of events; ties in
`ts` keep it. Sources without times get increasing artificial ones, and say so in `dataset.json` (`"ts": "order"`).
"""

from __future__ import annotations

import polars as pl

from recsys.events.schema import KINDS

KIND = pl.Enum(list(KINDS))

INTERACTIONS: dict[str, pl.DataType | type[pl.DataType]] = {
    "user_id": pl.String,
    "item_id": pl.String,
    "kind": KIND,
    "value": pl.Float32,
    "ts": pl.Int64,
}
ITEMS: dict[str, pl.DataType | type[pl.DataType]] = {
    "item_id": pl.String,
    "title": pl.String,
    "categories": pl.List(pl.String),
    "year": pl.Int32,
}
USERS: dict[str, pl.DataType | type[pl.DataType]] = {"user_id": pl.String, "attributes": pl.String}
