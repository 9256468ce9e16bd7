"""MovieLens folders: what each layout becomes, and what a wrong file is answered with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recsys.data.movielens import LAYOUTS, ORDER_START_MS, read_movielens
from recsys.errors import DataFileError


def test_100k_layout(ml_100k: Path) -> None:
    dataset = read_movielens(ml_100k)
    assert dataset.interactions.rows() == [
        ("2", "10", "click", 3.0, 881250940000),
        ("1", "10", "like", 5.0, 881250949000),
        ("1", "11", "like", 4.0, 881250949000),  # the tie keeps the order of the file
    ]
    assert dataset.items.rows() == [
        ("10", "Café Society (1990)", ["Comedy", "Drama"], 1990),
        ("11", "Unseen (1991) (V)", [], 1991),
        ("12", "unknown", [], None),
    ]
    assert dataset.users["user_id"].to_list() == ["1", "2", "3"]
    assert json.loads(dataset.users["attributes"][0]) == {"age": "24", "gender": "M", "occupation": "writer"}
    assert dataset.has_times


def test_1m_layout(ml_1m: Path) -> None:
    dataset = read_movielens(ml_1m)
    assert dataset.interactions["user_id"].to_list() == ["2", "1"]
    assert dataset.items.row(0) == ("10", "Léon: The Professional (1994)", ["Action", "Drama"], 1994)
    assert json.loads(dataset.users["attributes"][1]) == {"gender": "M", "age": "56", "occupation": "16"}


def test_10m_layout_has_no_users(ml_1m: Path) -> None:
    (ml_1m / "users.dat").unlink()
    assert read_movielens(ml_1m).users.rows() == [("2", "{}"), ("1", "{}")]


def test_csv_layout(ml_csv: Path) -> None:
    dataset = read_movielens(ml_csv)
    assert dataset.interactions.select("item_id", "kind", "value").rows() == [("11", "like", 4.0), ("10", "click", 3.5)]
    assert dataset.items.rows() == [
        ("10", "Misérables, Les (1995)", ["Drama", "War"], 1995),
        ("11", "Fawlty Towers (1975-1979)", ["Comedy"], 1975),
        ("12", "Hyena Road", [], None),
    ]


def test_csv_ratings_with_stray_fields_are_read_and_counted(ml_csv: Path) -> None:
    path = ml_csv / "ratings.csv"
    path.write_text(path.read_text() + "2,10,5,1260759200,,3.4508\n")
    dataset = read_movielens(ml_csv)
    assert dataset.interactions.height == 3
    assert dataset.meta["lines_with_surplus_fields"] == 1


def test_an_item_that_only_the_ratings_name_gets_a_row(ml_csv: Path) -> None:
    path = ml_csv / "ratings.csv"
    path.write_text(path.read_text() + "1,99,4.0,1260759150\n")
    assert read_movielens(ml_csv).items.row(-1) == ("99", "99", [], None)


def test_order_layout_keeps_the_given_order(ml_1m_order: Path) -> None:
    dataset = read_movielens(ml_1m_order)
    assert dataset.interactions.select("user_id", "item_id").rows() == [("2", "1"), ("2", "2"), ("1", "2"), ("1", "1")]
    assert dataset.interactions["kind"].unique().to_list() == ["click"]
    assert dataset.interactions["ts"].to_list() == [ORDER_START_MS + n * 1_000 for n in range(4)]
    assert dataset.items["item_id"].to_list() == ["1", "2"], "film 3 is not in the cut"
    assert not dataset.has_times


def test_crlf_and_byte_order_mark_are_read(ml_csv: Path) -> None:
    path = ml_csv / "ratings.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_movielens(ml_csv).interactions["ts"].to_list() == [1260759140000, 1260759144000]


def test_crlf_in_a_file_without_quotes(ml_100k: Path) -> None:
    path = ml_100k / "u.data"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_movielens(ml_100k).interactions.height == 3


def test_unknown_layout_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="no known MovieLens layout") as error:
        read_movielens(tmp_path)
    for layout in LAYOUTS:
        assert all(name in str(error.value) for name in layout.files)


def test_a_folder_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="expected a MovieLens folder"):
        read_movielens(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataFileError, match="expected a MovieLens folder, found a file"):
        read_movielens(tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("u.data", b"", "u.data: the file is empty"),
        ("u.data", b"\n\n", "u.data: the file is empty"),
        ("u.data", b"1,10,5,881250949\n", "u.data, line 1: expected 4 fields separated by tab"),
        ("u.data", b"1\t10\t5\t881250949\n1\t10\t5\n", "u.data, line 2: expected 4 fields separated by tab"),
        ("u.data", b"1\t10\t5\t881250949\n\n1\t10\tfive\t881250949\n", "line 3, column 'rating'.*number.*'five'"),
        ("u.data", b"1\t10\t5\t881250949\n1\t10\t7\t881250949\n", "line 2, column 'rating'.*from 0.5 to 5.*'7'"),
        ("u.data", b"1\t10\tnan\t881250949\n", "line 1, column 'rating'.*from 0.5 to 5.*'nan'"),
        ("u.data", b"1\t10\t5\tyesterday\n", "line 1, column 'timestamp'.*expected a time.*'yesterday'"),
        ("u.data", b"1\t10\t5\t881250949000\n", "line 1, column 'timestamp'.*expected a time.*'881250949000'"),
        ("u.data", b"1\t10\t5\t881250949\n\t10\t5\t881250949\n", "line 2, column 'user id'.*expected an id"),
        ("u.data", b"1\t10\t5\t881250949\n1\t \t5\t881250949\n", "line 2, column 'item id'.*expected an id"),
        ("u.data", b"1\t10\t5\t881250949\n\xe9\t10\t5\t881250949\n", "line 2: expected utf-8 text.*0xe9"),
        ("u.data", b"1\t10\t5\t881250949\n1\x00\t10\t5\t8\n", "line 2: expected text, found a zero byte"),
        ("u.item", b"10|A (1990)|||http://x|0|1|2\n", "u.item, line 1, column 'Drama': expected the flag 0 or 1"),
        ("u.item", b"10|A|||x|0|1|0\n10|B|||x|0|1|0\n", "line 2, column 'movie id': expected every film once"),
        ("u.item", b"10||||x|0|1|0\n", "line 1, column 'movie title': expected a title, found nothing"),
        ("u.user", b"1|24|M|writer|85711\n1|24|M|writer|85711\n", "u.user, line 2.*every user once"),
        ("u.genre", b"Comedy\n", "u.genre, line 1: expected 2 fields"),
    ],
)
def test_wrong_file_of_the_100k_layout(ml_100k: Path, name: str, content: bytes, expected: str) -> None:
    (ml_100k / name).write_bytes(content)
    with pytest.raises(DataFileError, match=expected):
        read_movielens(ml_100k)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "ratings.csv",
            b"userId,movieId,rating,timestamp\n",
            "ratings.csv: expected at least one row below the header",
        ),
        (
            "ratings.csv",
            b"userId,movieId,rating\n1,2,3\n",
            "column 'timestamp'.*columns are 'userId', 'movieId', 'rating'",
        ),
        ("ratings.csv", b"userId;movieId;rating;timestamp\n1;2;3;4\n", "the separator looks like ';'"),
        (
            "ratings.csv",
            b"userId,movieId,userId,timestamp\n1,2,3,4\n",
            "line 1, column 'userId': the header names this",
        ),
        ("ratings.csv", b"userId,movieId,rating,timestamp\n1,2,3,1260759144\n1,2,3\n", "line 3: expected 4 fields"),
        ("ratings.csv", b"userId,,rating,timestamp\n1,2,3,4\n", "line 1: the header has a column without a name"),
        ("movies.csv", b'movieId,title,genres\n10,"Les,Drama\n11,B,Drama\n', "movies.csv, line 2: a quoted field"),
        (
            "movies.csv",
            b"movieId,title,genres\n10,Seven, The,Drama\n",
            "movies.csv, line 2: expected 3 fields.*found 4",
        ),
        ("movies.csv", "movieId,title,genres\n10,Léon,Drama\n".encode("latin-1"), "line 2: expected utf-8 text"),
    ],
)
def test_wrong_file_of_the_csv_layout(ml_csv: Path, name: str, content: bytes, expected: str) -> None:
    (ml_csv / name).write_bytes(content)
    with pytest.raises(DataFileError, match=expected):
        read_movielens(ml_csv)


def test_wrong_parquet_of_the_order_layout(ml_1m_order: Path) -> None:
    path = ml_1m_order / "interactions.parquet"
    pl.DataFrame({"user": [1]}).write_parquet(path)
    with pytest.raises(DataFileError, match="column 'user_id': no such column; the columns are 'user'"):
        read_movielens(ml_1m_order)
    pl.DataFrame({"user_id": [1, None], "item_id": [1, 2]}).write_parquet(path)
    with pytest.raises(DataFileError, match="column 'user_id': row 2: expected an id, found nothing"):
        read_movielens(ml_1m_order)
    pl.DataFrame({"user_id": [1.5], "item_id": [1]}).write_parquet(path)
    with pytest.raises(DataFileError, match="expected ids as text or integers"):
        read_movielens(ml_1m_order)
    path.write_text("no parquet")
    with pytest.raises(DataFileError, match="expected a parquet file"):
        read_movielens(ml_1m_order)


@pytest.mark.parametrize("layout", ["ml_100k", "ml_1m", "ml_csv", "ml_1m_order"])
def test_every_missing_file_is_named(layout: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(layout)
    files = next(la.files for la in LAYOUTS if (folder / la.files[0]).exists())
    for name in files[1:]:
        if (layout, name) == ("ml_1m", "users.dat"):
            continue  # the 10m layout
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(DataFileError, match=rf"{re.escape(name)}: no such file"):
            read_movielens(folder)
        (folder / name).write_bytes(content)


def test_line_numbers_count_lines_inside_quotes(ml_csv: Path, write: Callable[..., Path]) -> None:
    write("movies.csv", 'movieId,title,genres\n10,"two\nlines (1995)",Drama\n11,"a\nb\nc",War\n11,B,War\n')
    with pytest.raises(DataFileError, match="line 7, column 'movieId': expected every film once"):
        read_movielens(ml_csv)
