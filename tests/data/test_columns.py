"""Any table by a column mapping."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recsys.data.columns import read_table
from recsys.errors import DataFileError, InputError

Writer = Callable[..., Path]
MAPPING = {"user": "who", "item": "sku", "ts": "at"}
LOG = "who,sku,at,did,amount\nb,x,2024-05-01T12:00:01Z,Like,\na,y,2024-05-01T12:00:00Z,view,2.5\n"


def test_a_csv_with_all_columns(write: Writer) -> None:
    dataset = read_table(write("log.csv", LOG), {**MAPPING, "kind": "did", "value": "amount"})
    assert dataset.interactions.rows() == [
        ("a", "y", "view", 2.5, 1_714_564_800_000),
        ("b", "x", "like", None, 1_714_564_801_000),
    ]
    assert dataset.items.rows() == [("y", "y", [], None), ("x", "x", [], None)]
    assert dataset.users["user_id"].to_list() == ["a", "b"]
    assert dataset.has_times


def test_kind_of_all_rows(write: Writer) -> None:
    dataset = read_table(write("log.csv", LOG), MAPPING, kind="purchase")
    assert dataset.interactions["kind"].to_list() == ["purchase", "purchase"]


def test_without_times_the_order_counts(write: Writer) -> None:
    dataset = read_table(write("log.csv", LOG), {"user": "who", "item": "sku"})
    assert dataset.interactions["user_id"].to_list() == ["b", "a"]
    assert not dataset.has_times


@pytest.mark.parametrize(("name", "separator"), [("log.tsv", None), ("log.csv", "\t"), ("log.txt", ";"), ("log", "|")])
def test_separators(write: Writer, name: str, separator: str | None) -> None:
    path = write(name, LOG.replace(",", separator or "\t"))
    assert read_table(path, MAPPING, separator=separator).interactions.height == 2


def test_an_encoding(write: Writer) -> None:
    path = write("log.csv", LOG.replace("b,x", "é,x").encode("latin-1"))
    assert "é" in read_table(path, MAPPING, encoding="latin-1").interactions["user_id"].to_list()


def test_a_parquet(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"who": [7, 8], "sku": ["x", "y"], "at": [1_714_564_801, 1_714_564_800]}).write_parquet(path)
    assert read_table(path, MAPPING).interactions["user_id"].to_list() == ["8", "7"]


def test_a_catalogue_inside_the_interactions(write: Writer) -> None:
    path = write("log.csv", "who,sku,name,tags\na,x,,\nb,x,The X,Red | Big\nb,x,Other,\nc,y,,\n")
    dataset = read_table(path, {"user": "who", "item": "sku", "title": "name", "categories": "tags"})
    assert dataset.items.rows() == [("x", "The X", ["Red", "Big"], None), ("y", "y", [], None)]


@pytest.mark.parametrize(
    ("content", "mapping", "expected"),
    [
        ("", MAPPING, "log.csv: the file is empty"),
        ("who,sku,at\n", MAPPING, "expected at least one row below the header"),
        ("who,sku,at\n\n\n", MAPPING, "expected at least one row below the header"),
        (
            "who,sku,when\na,x,2024-05-01\n",
            MAPPING,
            "column 'at': no such column; the columns are 'who', 'sku', 'when'",
        ),
        ("who;sku;at\na;x;2024-05-01\n", MAPPING, "the separator looks like ';'"),
        ("who\tsku\tat\na\tx\t2024-05-01\n", MAPPING, r"the separator looks like '\\t'"),
        ("who,sku,at,who\na,x,2024-05-01,b\n", MAPPING, "line 1, column 'who': the header names this column 2 times"),
        ("who,sku,at\na,x,2024-05-01\n,x,2024-05-01\n", MAPPING, "line 3, column 'who': expected an id, found nothing"),
        ("who,sku,at\na,x,2024-05-01\nb,x\n", MAPPING, "line 3: expected 3 fields as in the header, found 2"),
        ("who,sku,at\na,x,2024-05-01,9\n", MAPPING, "line 2: expected 3 fields as in the header, found 4"),
        ("who,sku,at\na,x,today\n", MAPPING, "line 2, column 'at': expected a time"),
        (f"who,sku,at\n{'a' * 129},x,2024-05-01\n", MAPPING, "line 2, column 'who': expected an id of at most 128"),
        ("who,sku,at\na,\x01x,2024-05-01\n", MAPPING, "line 2, column 'sku': expected an id without control"),
        (LOG.replace("Like", "love"), {**MAPPING, "kind": "did"}, "line 2, column 'did': expected one of view, click"),
        (LOG.replace("Like", ""), {**MAPPING, "kind": "did"}, "line 2, column 'did': expected one of view"),
        (LOG.replace("2.5", "two"), {**MAPPING, "value": "amount"}, "line 3, column 'amount': expected a number"),
        (LOG.replace("2.5", "inf"), {**MAPPING, "value": "amount"}, "line 3, column 'amount': expected a number from"),
        (b"who,sku,at\na,\xff\xfe,2024-05-01\n", MAPPING, "line 2: expected utf-8 text, found the byte 0xff"),
        (LOG.encode("utf-16"), MAPPING, "line 1: expected utf-8 text"),
        (b"PAR1\x00\x00", MAPPING, "expected text, found a zero byte"),
    ],
)
def test_wrong_files(write: Writer, content: str | bytes, mapping: dict[str, str], expected: str) -> None:
    with pytest.raises(DataFileError, match=expected):
        read_table(write("log.csv", content), mapping)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"log.csv: no such file"):
        read_table(tmp_path / "log.csv", MAPPING)
    with pytest.raises(DataFileError, match="expected a file, found a folder"):
        read_table(tmp_path, MAPPING)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"user": "who"}, "mapping: item is required"),
        ({}, "mapping: user is required"),
        ({**MAPPING, "rating": "x"}, "mapping: 'rating' is not one of user, item, ts, kind, value"),
        ({"user": "", "item": "sku"}, "mapping: user names no column"),
    ],
)
def test_wrong_mappings(write: Writer, mapping: dict[str, str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_table(write("log.csv", LOG), mapping)


def test_wrong_options(write: Writer) -> None:
    path = write("log.csv", LOG)
    with pytest.raises(InputError, match="kind: 'love' is not one of"):
        read_table(path, MAPPING, kind="love")
    with pytest.raises(InputError, match="separator: '::' is not one character"):
        read_table(path, MAPPING, separator="::")
    with pytest.raises(DataFileError, match="'klingon' is not a known encoding"):
        read_table(path, MAPPING, encoding="klingon")
