"""Times of every notation become Unix milliseconds, or an error with the line."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.source_table import SourceTable
from recsys.data.times import TimeUnit, to_unix_ms
from recsys.errors import DataFileError
from recsys.events.schema import TS_MIN_MS

NOON = 1_714_564_800_000  # 2024-05-01T12:00:00Z


def table(values: list[object] | pl.Series) -> SourceTable:
    frame = pl.DataFrame({"when": values})
    return SourceTable(Path("log.csv"), frame, pl.Series(range(2, 2 + frame.height)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1714564800", NOON),
        ("1714564800.25", NOON + 250),
        ("1714564800000", NOON),
        ("1714564800000000", NOON),
        ("1714564800000000000", NOON),
        ("2024-05-01T12:00:00Z", NOON),
        ("2024-05-01t12:00:00z", NOON),
        ("2024-05-01 12:00:00", NOON),
        ("2024-05-01T12:00", NOON),
        ("2024-05-01T12:00:00.250", NOON + 250),
        ("2024-05-01T12:00:00,250Z", NOON + 250),
        ("2024-05-01T14:00:00+02:00", NOON),
        ("2024-05-01T14:00:00 +0200", NOON),
        ("2024-05-01T14:00:00+02", NOON),
        ("2024-05-01", NOON - 12 * 3_600_000),
        ("  2024-05-01T12:00:00Z ", NOON),
    ],
)
def test_notations(text: str, expected: int) -> None:
    assert to_unix_ms(table([text]), "when").to_list() == [expected]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pl.Series([NOON // 1000]), NOON),
        (pl.Series([NOON]), NOON),
        (pl.Series([NOON * 1_000_000 + 7]), NOON),
        (pl.Series([NOON / 1000]), NOON),
        (pl.Series([datetime(2024, 5, 1, 12)]), NOON),
        (pl.Series([datetime(2024, 5, 1, 12, tzinfo=UTC)]), NOON),
        (pl.Series([date(2024, 5, 1)]), NOON - 12 * 3_600_000),
    ],
)
def test_typed_columns(values: pl.Series, expected: int) -> None:
    assert to_unix_ms(table(values), "when").to_list() == [expected]


def test_zoned_columns_count_their_offset() -> None:
    zoned = pl.Series([datetime(2024, 5, 1, 12, tzinfo=UTC)]).dt.convert_time_zone("America/New_York")
    assert to_unix_ms(table(zoned), "when").to_list() == [NOON]


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        (["2024-05-01", "soon"], "auto", "line 3, column 'when'.*expected a time as.*'soon'"),
        (["2024-05-01", None], "auto", "line 3.*expected a time.*found nothing"),
        (["2024-05-01", ""], "auto", "line 3.*expected a time"),
        (["2024-02-30"], "auto", "line 2.*expected a time"),
        (["01.05.2024"], "auto", "line 2.*expected a time"),
        (["1714564800", "1714564800000"], "auto", "line 3.*a time in Unix s like the first rows.*'1714564800000'"),
        (["1714564800", "soon"], "auto", "line 3.*expected a time.*'soon'"),
        (["1714564800", "nan"], "auto", "line 3.*expected a time.*'nan'"),
        (["12"], "auto", "line 2.*from March 1973"),
        (["-5"], "auto", "line 2.*from March 1973"),
        (["1e30"], "auto", "line 2.*from March 1973"),
        (["1714564800000"], "s", "line 2.*from March 1973 to the year 5138"),
        (["1714564800"], "ms", "line 2.*from March 1973"),
        (["1714564800"], "iso", "line 2.*expected a time"),
        (["2024-05-01"], "s", "line 2.*expected a time"),
        (["1970-01-01"], "auto", "line 2.*from March 1973"),
        ([True], "auto", "expected a time"),
    ],
)
def test_what_cannot_be_read_is_named(values: list[object], unit: TimeUnit, expected: str) -> None:
    with pytest.raises(DataFileError, match=expected):
        to_unix_ms(table(values), "when", unit)


def test_an_unknown_unit_lists_the_known() -> None:
    with pytest.raises(DataFileError, match="'minutes' is not a unit of time; one of auto, s, ms, us, ns, iso"):
        to_unix_ms(table(["1"]), "when", "minutes")  # type: ignore[arg-type]


def test_a_duration_is_no_time() -> None:
    with pytest.raises(DataFileError, match="expected a date or a time, found Duration"):
        to_unix_ms(table(pl.Series([1], dtype=pl.Duration("ms"))), "when")


@settings(deadline=None)
@given(st.lists(st.integers(TS_MIN_MS, 4 * 10**12), min_size=1, max_size=20), st.sampled_from(["s", "ms", "us", "iso"]))
def test_every_notation_tells_the_same_time(times_ms: list[int], notation: str) -> None:
    whole = [t // 1000 * 1000 for t in times_ms]
    write = {
        "s": lambda t: str(t // 1000),
        "ms": lambda t: str(t),
        "us": lambda t: str(t * 1000),
        "iso": lambda t: datetime.fromtimestamp(t / 1000, UTC).isoformat(),
    }[notation]
    assert to_unix_ms(table([write(t) for t in whole]), "when").to_list() == whole
