"""Times of any common notation as Unix milliseconds.

Rule of detection, for a whole column: numbers from 1e8 up are seconds, from 1e11 milliseconds, from 1e14
microseconds, from 1e17 nanoseconds (each unit begins in March 1973, so the ranges never overlap for later times);
all numbers of a column must fall into the same range. Text that is no number is ISO 8601, without an offset UTC.
"""

from __future__ import annotations

from typing import Literal, get_args

import polars as pl

from recsys.data.source_table import SourceTable
from recsys.errors import DataFileError
from recsys.events.schema import TS_MIN_MS

TimeUnit = Literal["auto", "s", "ms", "us", "ns", "iso"]
TIME_UNITS: tuple[str, ...] = get_args(TimeUnit)

_MS_PER_UNIT = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
TS_MAX_MS = 100_000_000_000_000  # the year 5138: anything above is a finer unit by mistake
_ISO = r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2}(?:[.,]\d{1,9})?)?\s?(Z|[+-]\d{2}(?::?\d{2})?)?)?$"
_EXPECTED = "a time as Unix seconds, milliseconds or ISO 8601 (2024-05-01T12:00:00Z)"


def to_unix_ms(table: SourceTable, column: str, unit: TimeUnit = "auto") -> pl.Series:
    """A column of times as Unix milliseconds (Int64, never null, not before March 1973).

    Raises:
        DataFileError: naming the line of the first time that cannot be read.
    """
    if unit not in TIME_UNITS:
        raise DataFileError(
            table.path, f"{unit!r} is not a unit of time; one of {', '.join(TIME_UNITS)}", column=column
        )
    if table.frame[column].dtype.is_temporal():
        ms = _from_temporal(table, column)
    else:
        text = table.text(column)
        table.fail_where(text.is_null(), column, _EXPECTED)
        numbers = text.cast(pl.Float64, strict=False)
        numeric = unit in _MS_PER_UNIT or (unit == "auto" and numbers[0] is not None)
        ms = _from_numbers(table, column, numbers, unit) if numeric else _from_iso(table, column, text)
    table.fail_where((ms < TS_MIN_MS) | (ms >= TS_MAX_MS), column, "a time from March 1973 to the year 5138")
    return ms


def _from_numbers(table: SourceTable, column: str, numbers: pl.Series, unit: TimeUnit) -> pl.Series:
    table.fail_where(~numbers.is_finite().fill_null(False), column, _EXPECTED)
    if unit == "auto":
        unit = _unit_of(table, column, float(numbers[0]), row=0)
        low = TS_MIN_MS / _MS_PER_UNIT[unit]
        mixed = (numbers < low) | (numbers >= low * 1_000)
        table.fail_where(mixed, column, f"a time in Unix {unit} like the first rows (or name the unit)")
    if unit in ("s", "ms") or not table.frame[column].dtype.is_integer():
        return (numbers * _MS_PER_UNIT[unit]).round().cast(pl.Int64)
    return table.frame[column].cast(pl.Int64) // round(1 / _MS_PER_UNIT[unit])


def _unit_of(table: SourceTable, column: str, number: float, *, row: int) -> TimeUnit:
    units: tuple[TimeUnit, ...] = ("s", "ms", "us", "ns")
    unit = next((u for u in units if TS_MIN_MS <= number * _MS_PER_UNIT[u] < TS_MIN_MS * 1_000), None)
    if unit is None:
        table.fail(row, column, "a time from March 1973 on (name the unit if it is a rare one)")
    return unit


def _from_iso(table: SourceTable, column: str, text: pl.Series) -> pl.Series:
    parts = (
        pl.DataFrame({"text": text.str.to_uppercase()}).select(pl.col("text").str.extract_groups(_ISO)).unnest("text")
    )
    date, clock, seconds, offset = (pl.col(name) for name in parts.columns)
    offset = pl.when(offset.str.len_chars() == 3).then(offset + "00").otherwise(offset.str.replace(":", ""))
    full = pl.concat_str(
        date,
        pl.lit("T"),
        clock.fill_null("00:00"),
        seconds.str.replace(",", ".").fill_null(":00"),
        offset.replace("Z", "+0000").fill_null("+0000"),
    )
    times = parts.select(full.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", time_unit="ms", strict=False)).to_series()
    table.fail_where(times.is_null(), column, _EXPECTED)
    return times.dt.timestamp("ms")


def _from_temporal(table: SourceTable, column: str) -> pl.Series:
    times = table.frame[column]
    table.fail_where(times.is_null(), column, "a time")
    if times.dtype not in (pl.Date, pl.Datetime):
        raise DataFileError(table.path, f"expected a date or a time, found {times.dtype}", column=column)
    return times.cast(
        pl.Datetime("ms", times.dtype.time_zone if isinstance(times.dtype, pl.Datetime) else None)
    ).dt.timestamp("ms")
