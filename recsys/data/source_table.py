"""A source file as a table of text: read as a whole, checked column by column, every complaint with its line.

Reading is vectorised and keeps every field as text, so that a wrong value can be quoted as it stands in the file.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import polars as pl

from recsys.errors import DataFileError
from recsys.events.schema import ID_MAX

_ONE_COLUMN = "\x1f"  # the unit separator: not in any text file, so a whole line is read as one column
_SHOWN_MAX = 40


@dataclass(frozen=True, slots=True)
class SourceTable:
    """Rows of a source file.

    Attributes:
        path: the file, for messages.
        frame: its columns; text files have text columns only, an empty field is null.
        lines: the line on which each row starts, from 1; None for files without lines (parquet).
        surplus: lines that had more fields than the header, where the reader was told to drop those.
    """

    path: Path
    frame: pl.DataFrame
    lines: pl.Series | None
    surplus: int = 0

    def fail(self, row: int, column: str, expected: str) -> NoReturn:
        """Raise a DataFileError about one field, with what was found there."""
        found = self.frame[column][row]
        found_text = "nothing" if found is None or not str(found).strip() else repr(str(found)[:_SHOWN_MAX])
        if self.lines is None:
            raise DataFileError(self.path, f"row {row + 1}: expected {expected}, found {found_text}", column=column)
        raise DataFileError(
            self.path, f"expected {expected}, found {found_text}", line=int(self.lines[row]), column=column
        )

    def fail_where(self, wrong: pl.Series, column: str, expected: str) -> None:
        """Raise about the first row where `wrong` is true; nothing happens if there is none."""
        if wrong.any():
            row = wrong.arg_max()
            assert row is not None
            self.fail(row, column, expected)

    def require(self, columns: Sequence[str]) -> None:
        """Raise unless all columns are there, listing those that are."""
        missing = [c for c in columns if c not in self.frame.columns]
        if missing:
            there = ", ".join(map(repr, self.frame.columns[:50]))
            raise DataFileError(
                self.path, f"no such column; the columns are {there}{_separator_hint(self.frame)}", column=missing[0]
            )

    def text(self, column: str) -> pl.Series:
        """The column as text without surrounding blanks; blank is null."""
        try:
            text = self.frame[column].cast(pl.String).str.strip_chars()
        except pl.exceptions.PolarsError:
            found = self.frame.schema[column]
            raise DataFileError(self.path, f"expected text or numbers, found {found}", column=column) from None
        return text.set(text == "", None)

    def ids(self, column: str) -> pl.Series:
        """The column as ids: 1 to 128 characters, never null, no control characters."""
        if self.frame[column].dtype.is_float():  # "3.0" would be another id than the "3" of the other file
            raise DataFileError(self.path, "expected ids as text or integers, found floating point", column=column)
        ids = self.text(column)
        self.fail_where(ids.is_null(), column, "an id")
        self.fail_where(ids.str.len_chars() > ID_MAX, column, f"an id of at most {ID_MAX} characters")
        self.fail_where(ids.str.contains(r"[\x00-\x1f]"), column, "an id without control characters")
        return ids

    def numbers(self, column: str, *, low: float, high: float, optional: bool = False) -> pl.Series:
        """The column as finite numbers in [low, high]; null only if `optional`."""
        text = self.text(column)
        if not optional:
            self.fail_where(text.is_null(), column, "a number")
        values = text.cast(pl.Float64, strict=False)
        self.fail_where(values.is_null() & text.is_not_null(), column, "a number")
        inside = (values >= low) & (values <= high) & values.is_finite()
        self.fail_where(~inside.fill_null(True), column, f"a number from {low:g} to {high:g}")
        return values


def read_lines(path: Path, columns: Sequence[str], *, separator: str, encoding: str = "utf-8") -> SourceTable:
    """Read a file of unquoted fields with a separator of any length (`::`, `|`, tab).

    A first line equal to the joined column names is a header and skipped. Blank lines are skipped.

    Raises:
        DataFileError: missing, empty, wrong encoding, or a line with another number of fields.
    """
    raw = _read_text(path, encoding)
    try:
        frame = pl.read_csv(
            raw, has_header=False, separator=_ONE_COLUMN, quote_char=None, infer_schema=False, new_columns=["text"]
        )
    except pl.exceptions.PolarsError as error:
        raise DataFileError(path, f"expected lines of text: {str(error).splitlines()[0]}") from None
    frame = frame.with_row_index("line", offset=1).filter(pl.col("text").str.strip_chars() != "")
    if frame.height and frame["text"][0] == separator.join(columns):
        frame = frame[1:]
    if not frame.height:
        raise DataFileError(path, "expected at least one row of data, found none")
    fields = frame["text"].str.split(separator)
    counts = fields.list.len()
    wrong = counts != len(columns)
    if wrong.any():
        row = wrong.arg_max()
        assert row is not None
        shown = "tab" if separator == "\t" else repr(separator)
        raise DataFileError(
            path,
            f"expected {len(columns)} fields separated by {shown} ({', '.join(columns[:6])}"
            f"{', ...' if len(columns) > 6 else ''}), found {counts[row]}",
            line=int(frame["line"][row]),
        )
    split = fields.list.to_struct(fields=list(columns)).struct.unnest()
    return SourceTable(path, split, frame["line"])


def read_csv(path: Path, *, separator: str = ",", encoding: str = "utf-8", drop_surplus: bool = False) -> SourceTable:
    """Read a file with a header line and fields that may be quoted.

    Args:
        path: the file.
        separator: one character.
        encoding: of the file.
        drop_surplus: drop and count fields beyond the header's. Only for tables whose every column is checked, since
            a separator inside a field that is not quoted looks the same.

    Raises:
        DataFileError: missing, empty, wrong encoding, duplicate column, or a line with another number of fields.
    """
    raw = _read_text(path, encoding)
    names, first_line = _header(path, raw, separator)
    surplus = 0
    try:
        frame = pl.read_csv(raw, separator=separator, infer_schema=False, new_columns=names)
    except pl.exceptions.PolarsError as error:
        surplus = _check_lines(path, raw, separator, len(names), drop_surplus=drop_surplus)
        if not surplus:
            raise DataFileError(path, f"expected separated values: {str(error).splitlines()[0]}") from None
        frame = pl.read_csv(raw, separator=separator, infer_schema=False, new_columns=names, truncate_ragged_lines=True)
    # A shorter line is read as if its last fields were empty.
    if frame[names[-1]].null_count():
        _check_lines(path, raw, separator, len(names), drop_surplus=drop_surplus)
    breaks = frame.select(pl.sum_horizontal(pl.all().str.count_matches("\n").fill_null(0)).cum_sum().shift(1))
    starts = breaks.to_series().fill_null(0).cast(pl.Int64) + pl.int_range(
        first_line, frame.height + first_line, eager=True
    )
    lined = frame.with_columns(starts.alias("\0line")).filter(~pl.all_horizontal(pl.col(names).is_null()))
    if not lined.height:
        raise DataFileError(path, "expected at least one row below the header, found none")
    return SourceTable(path, lined.drop("\0line"), lined["\0line"], surplus)


def read_parquet(path: Path) -> SourceTable:
    """Read a parquet file.

    Raises:
        DataFileError: missing, empty or no parquet.
    """
    _check_file(path)
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataFileError(path, f"expected a parquet file: {str(error).splitlines()[0]}") from None
    if not frame.height:
        raise DataFileError(path, "expected at least one row, found none")
    return SourceTable(path, frame, None)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise DataFileError(path, "expected a file, found a folder")
    if not path.is_file():
        raise DataFileError(path, "no such file")
    if path.stat().st_size == 0:
        raise DataFileError(path, "the file is empty")


def _read_text(path: Path, encoding: str) -> bytes:
    """The file as UTF-8 bytes without a byte order mark."""
    _check_file(path)
    raw = path.read_bytes()
    try:
        codec = codecs.lookup(encoding).name
        text = raw.decode(codec)
    except LookupError:
        raise DataFileError(path, f"{encoding!r} is not a known encoding") from None
    except UnicodeDecodeError as error:
        raise DataFileError(
            path,
            f"expected {encoding} text, found the byte 0x{raw[error.start]:02x} which is none",
            line=raw.count(b"\n", 0, error.start) + 1,
        ) from None
    for name, control in (("zero byte", "\0"), ("unit separator", _ONE_COLUMN)):
        if control in text:
            line = text.count("\n", 0, text.index(control)) + 1
            raise DataFileError(path, f"expected text, found a {name}", line=line)
    raw = (raw if codec == "utf-8" else text.encode()).removeprefix(codecs.BOM_UTF8)
    if not raw.strip():
        raise DataFileError(path, "the file is empty")
    return raw


def _header(path: Path, raw: bytes, separator: str) -> tuple[list[str], int]:
    """Names of the columns, and the number of the line below them."""
    reader = csv.reader(io.StringIO(raw[:65_536].decode("utf-8", "replace"), newline=""), delimiter=separator)
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise DataFileError(path, f"expected a header with the names of the columns ({error})", line=1) from None
    if not names:
        raise DataFileError(path, "expected a header with the names of the columns, found a blank line", line=1)
    for name in names:
        if names.count(name) > 1:
            raise DataFileError(path, f"the header names this column {names.count(name)} times", line=1, column=name)
        if not name:
            raise DataFileError(path, "the header has a column without a name", line=1)
    return names, reader.line_num + 1


def _check_lines(path: Path, raw: bytes, separator: str, fields: int, *, drop_surplus: bool) -> int:
    """Raise at the first line with a wrong number of fields, else count those with too many.

    Slow, so only once something was found to be wrong.
    """
    reader = csv.reader(io.StringIO(raw.decode(), newline=""), delimiter=separator, strict=True)
    line, surplus = 1, 0
    try:
        for record in reader:
            if record and (len(record) < fields or (len(record) > fields and not drop_surplus)):
                raise DataFileError(path, f"expected {fields} fields as in the header, found {len(record)}", line=line)
            surplus += len(record) > fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataFileError(path, f"a quoted field is not closed as expected ({error})", line=line) from None
    return surplus


def _separator_hint(frame: pl.DataFrame) -> str:
    if frame.width > 1:
        return ""
    other = next((s for s in (",", ";", "\t", "|") if s in frame.columns[0]), None)
    return "" if other is None else f"; the separator looks like {other!r}"
