"""MovieLens in each of its layouts, and the ordered cut of ML-1M that leave-one-out results are published on.

A rating of 4 or more is a `like`, a lower one a `click`; `value` keeps the rating. Where a layout has no ratings every
interaction is a `click`, and where it has no times they are artificial: one second apart, in the order of the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys.data.dataset import Dataset
from recsys.data.schema import KIND
from recsys.data.source_table import SourceTable, read_csv, read_lines, read_parquet
from recsys.data.times import to_unix_ms
from recsys.errors import DataFileError

LIKE_FROM = 4.0
RATING_LOW, RATING_HIGH = 0.5, 5.0
ORDER_START_MS = 1_000_000_000_000  # artificial times begin in September 2001, one second apart
ORDER_STEP_MS = 1_000

_GENRE_NAMES_MAX = 64
_YEAR = r"\((\d{4})(?:[-–]\d{0,4})?\)"


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which MovieLens is published: its files, and how they become a data set."""

    name: str
    files: tuple[str, ...]
    read: Callable[[Path], Dataset]


def read_movielens(folder: Path | str) -> Dataset:
    """Read a MovieLens folder of any layout.

    Args:
        folder: unpacked archive; the layout is told by the files in it.

    Raises:
        DataFileError: no known layout, or a wrong file: named with the line and what was expected.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataFileError(folder, "expected a MovieLens folder" + (", found a file" if folder.exists() else ""))
    layout = next((la for la in LAYOUTS if (folder / la.files[0]).exists()), None)
    if layout is None:
        known = "; ".join(f"{la.name}: {', '.join(la.files)}" for la in LAYOUTS)
        raise DataFileError(folder, f"no known MovieLens layout; the layouts and their files are {known}")
    return layout.read(folder)


def order_times(rows: int) -> pl.Series:
    """Artificial times (Unix ms) that only keep the order of rows."""
    start = pl.int_range(ORDER_START_MS, ORDER_START_MS + rows * ORDER_STEP_MS, ORDER_STEP_MS, eager=True)
    return start.cast(pl.Int64).alias("ts")


def _read_100k(folder: Path) -> Dataset:
    ratings = read_lines(folder / "u.data", ["user id", "item id", "rating", "timestamp"], separator="\t")
    genre_table = read_lines(folder / "u.genre", ["genre", "number"], separator="|", encoding="latin-1")
    genres = genre_table.frame["genre"].to_list()[:_GENRE_NAMES_MAX]
    columns = ["movie id", "movie title", "release date", "video release date", "IMDb URL", *genres]
    movies = read_lines(folder / "u.item", columns, separator="|", encoding="latin-1")
    for genre in genres:
        movies.fail_where(~movies.frame[genre].is_in(["0", "1"]), genre, "the flag 0 or 1")
    flagged = [pl.when(pl.col(g) == "1").then(pl.lit(g)) for g in genres if g != "unknown"]
    categories = movies.frame.select(pl.concat_list(flagged).list.drop_nulls()).to_series()
    users = read_lines(folder / "u.user", ["user id", "age", "gender", "occupation", "zip code"], separator="|")
    return Dataset.build(
        _rated(ratings, "user id", "item id", "rating", "timestamp"),
        items=_items(movies, "movie id", "movie title", categories),
        users=_users(users, "user id", ["age", "gender", "occupation"]),
        meta={"name": "movielens-100k", "ts": "time"},
    )


def _read_1m(folder: Path) -> Dataset:
    ratings = read_lines(folder / "ratings.dat", ["userId", "movieId", "rating", "timestamp"], separator="::")
    users = folder / "users.dat"
    return Dataset.build(
        _rated(ratings, "userId", "movieId", "rating", "timestamp"),
        items=_dat_items(folder),
        users=_dat_users(users) if users.exists() else None,  # the 10m archive has the same layout without users
        meta={"name": "movielens-1m" if users.exists() else "movielens-10m", "ts": "time"},
    )


def _read_1m_order(folder: Path) -> Dataset:
    table = read_parquet(folder / "interactions.parquet")
    table.require(["user_id", "item_id"])
    interactions = pl.DataFrame(
        {
            "user_id": table.ids("user_id"),
            "item_id": table.ids("item_id"),
            "kind": pl.Series(["click"], dtype=KIND).new_from_index(0, table.frame.height),
            "value": pl.Series([None], dtype=pl.Float32).new_from_index(0, table.frame.height),
            "ts": order_times(table.frame.height),
        }
    )
    # The cut is defined by its interactions: a film without any is not one of its items.
    items = _dat_items(folder).join(interactions.select("item_id").unique(), on="item_id", how="semi")
    return Dataset.build(
        interactions,
        items=items,
        users=_dat_users(folder / "users.dat"),
        meta={"name": "movielens-1m-order", "ts": "order"},
    )


def _read_csv_layout(folder: Path) -> Dataset:
    # Copies that went through a spreadsheet carry stray fields behind the four, which are all checked.
    ratings = read_csv(folder / "ratings.csv", drop_surplus=True)
    ratings.require(["userId", "movieId", "rating", "timestamp"])
    movies = read_csv(folder / "movies.csv")
    movies.require(["movieId", "title", "genres"])
    return Dataset.build(
        _rated(ratings, "userId", "movieId", "rating", "timestamp"),
        items=_items(movies, "movieId", "title", _split_genres(movies)),
        meta={"name": "movielens-csv", "ts": "time", "lines_with_surplus_fields": ratings.surplus},
    )


def _rated(table: SourceTable, user: str, item: str, rating: str, timestamp: str) -> pl.DataFrame:
    value = table.numbers(rating, low=RATING_LOW, high=RATING_HIGH)
    frame = pl.DataFrame(
        {
            "user_id": table.ids(user),
            "item_id": table.ids(item),
            "value": value,
            "ts": to_unix_ms(table, timestamp, "s"),
        }
    )
    liked = pl.when(pl.col("value") >= LIKE_FROM).then(pl.lit("like")).otherwise(pl.lit("click"))
    return frame.with_columns(kind=liked.cast(KIND))


def _dat_items(folder: Path) -> pl.DataFrame:
    movies = read_lines(folder / "movies.dat", ["movieId", "title", "genres"], separator="::", encoding="latin-1")
    return _items(movies, "movieId", "title", _split_genres(movies))


def _dat_users(path: Path) -> pl.DataFrame:
    columns = ["userId", "gender", "age", "occupation", "zip-code"]
    return _users(read_lines(path, columns, separator="::"), "userId", ["gender", "age", "occupation"])


def _split_genres(movies: SourceTable) -> pl.Series:
    genres = movies.text("genres")
    genres = genres.set(genres == "(no genres listed)", None)
    return genres.fill_null("").str.split("|").list.filter(pl.element() != "")


def _items(movies: SourceTable, id_: str, title: str, categories: pl.Series) -> pl.DataFrame:
    ids = movies.ids(id_)
    movies.fail_where(~ids.is_first_distinct(), id_, "every film once")
    titles = movies.text(title)
    movies.fail_where(titles.is_null(), title, "a title")
    years = titles.str.extract_all(_YEAR).list.last().str.extract(_YEAR)
    return pl.DataFrame({"item_id": ids, "title": titles, "categories": categories, "year": years.cast(pl.Int32)})


def _users(users: SourceTable, id_: str, attributes: list[str]) -> pl.DataFrame:
    ids = users.ids(id_)
    users.fail_where(~ids.is_first_distinct(), id_, "every user once")
    rows = users.frame.select(attributes).iter_rows(named=True)
    return pl.DataFrame({"user_id": ids, "attributes": [json.dumps(row) for row in rows]})


LAYOUTS: tuple[Layout, ...] = (
    Layout("100k", ("u.data", "u.item", "u.user", "u.genre"), _read_100k),
    Layout("1m or 10m", ("ratings.dat", "movies.dat", "users.dat"), _read_1m),
    Layout("latest, 25m or 32m", ("ratings.csv", "movies.csv"), _read_csv_layout),
    Layout("1m in order", ("interactions.parquet", "movies.dat", "users.dat"), _read_1m_order),
)
