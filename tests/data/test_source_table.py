"""Whatever bytes a file holds, it is read or refused with a DataFileError."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.columns import read_table
from recsys.data.movielens import read_movielens
from recsys.data.source_table import SourceTable, read_csv, read_lines, read_parquet
from recsys.errors import DataFileError

COLUMNS = ["a", "b", "c"]
# Text that is nearly a table: every damage that separators, quotes, blanks and line ends can do.
near_tables = st.lists(st.sampled_from([*'ab1,\t"\n\r; :|.-\x00\x1f', "::", '""', "é", "\ufeff", "2024-05-01"])).map(
    "".join
)
contents = st.binary(max_size=60) | near_tables.map(str.encode) | near_tables.map(lambda t: b"a,b,c\n" + t.encode())


def refused_or_read(content: bytes, separator: str) -> SourceTable | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table"
        path.write_bytes(content)
        try:
            if separator in (",", "\t"):
                return read_csv(path, separator=separator)
            return read_lines(path, COLUMNS, separator=separator)
        except DataFileError:
            return None


@settings(deadline=None)
@given(contents, st.sampled_from([",", "\t", "::", "|"]))
def test_any_bytes_are_read_or_refused(content: bytes, separator: str) -> None:
    table = refused_or_read(content, separator)
    if table is not None:
        assert table.lines is not None
        assert table.frame.height == table.lines.len() > 0
        assert table.lines.is_sorted()
        assert table.lines[0] >= 1
        assert table.lines[-1] <= content.count(b"\n") + content.count(b"\r") + 1
        assert set(table.frame.dtypes) == {pl.String}


@settings(deadline=None)
@given(near_tables)
def test_any_mapped_table_is_read_or_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        path.write_text("a,b,c,d\n" + text, encoding="utf-8", newline="")
        try:
            dataset = read_table(path, {"user": "a", "item": "b", "ts": "c", "value": "d"})
        except DataFileError:
            return
        dataset.save(Path(folder) / "out")  # whatever is read is a valid data set


@settings(deadline=None)
@given(near_tables, st.sampled_from(["u.data", "u.item", "u.user", "u.genre"]))
def test_any_damage_to_a_movielens_file_is_read_or_refused(text: str, name: str) -> None:
    files = {
        "u.data": "1\t10\t5\t881250949\n",
        "u.genre": "Comedy|0\n",
        "u.item": "10|A (1990)||||1\n",
        "u.user": "1|24|M|writer|85711\n",
    }
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            Path(folder, file).write_bytes((content + text if file == name else content).encode())
        try:
            dataset = read_movielens(folder)
        except DataFileError:
            return
        dataset.save(Path(folder) / "out")


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_no_parquet(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        path.write_bytes(content)
        with pytest.raises(DataFileError, match="table"):
            read_parquet(path)


def test_a_blank_first_line_is_no_header(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("\nwho,sku\na,x\n")
    with pytest.raises(DataFileError, match="line 1: expected a header"):
        read_csv(path)


def test_a_column_of_lists_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"who": [["a"]], "sku": ["x"]}).write_parquet(path)
    with pytest.raises(DataFileError, match="column 'who': expected text or numbers, found List"):
        read_table(path, {"user": "who", "item": "sku"})
