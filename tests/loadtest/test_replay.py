"""Real events come from any table, by a mapping of its columns, in the order of their times."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.options import LoadTestError, Options
from loadtest.replay import RealEvent, load_events

WANTED = [RealEvent(5, "7", "1", "like"), RealEvent(6, "8", "2", "click")]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("8\t2\t3\t6\n7\t1\t5\t5\n9\t3\t1\t9\n", "user=1,item=2,value=3,ts=4"),
        ("8::2::3::6\n7::1::5::5\n", "user=1,item=2,value=3,ts=4"),
        ("when,who,what,did\n6,8,2,click\n5,7,1,like\n", "user=who, item=what, ts=when, kind=did"),
        (
            "userId,movieId,rating,timestamp\n8,2,3.5,6\n7,1,4.0,5\n",
            "user=userId,item=movieId,value=rating,ts=timestamp",
        ),
    ],
    ids=["tabs", "colons", "names", "csv with ratings"],
)
def test_the_first_events_in_time(tmp_path: Path, text: str, columns: str) -> None:
    assert load_events(options(tmp_path, text, event_columns=columns)) == WANTED


@pytest.mark.parametrize(
    ("text", "columns", "complaint"),
    [
        ("1\t2\n", "user=1,item=2,ts=4", "row 1: \\['1', '2'\\] does not fit"),
        ("1\t2\tx\n", "user=1,item=2,ts=3", "row 1"),
        ("a,b\n1,2\n", "user=a,item=c,ts=b", "does not fit the columns of .*: a, b"),
        ("1\t2\t3\n", "user=1,item=2,ts=3", "has 1 events, --rate x --duration needs 2"),
        ("1\t2\t3\n", "user=1,item=2", "is not like user=1,item=2,value=3,ts=4"),
    ],
    ids=["short row", "no number", "unknown column", "too few", "no time"],
)
def test_a_file_that_does_not_fit_is_explained(tmp_path: Path, text: str, columns: str, complaint: str) -> None:
    with pytest.raises(LoadTestError, match=complaint):
        load_events(options(tmp_path, text, event_columns=columns))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(LoadTestError, match=r"--events-file: .absent\.csv. cannot be read: No such file"):
        load_events(Options(shape="replay", events_file="absent.csv"))


def test_movielens_100k_as_it_is(shared_data: Path) -> None:
    events = load_events(Options(shape="replay", events_file=str(shared_data / "ml-100k" / "u.data"), rate=50))
    assert len(events) == 3_000
    assert events == sorted(events, key=lambda event: event.ts)
    assert {event.kind for event in events} == {"like", "click"}


def options(folder: Path, text: str, **more: str) -> Options:
    file = folder / "events"
    file.write_text(text)
    return Options(shape="replay", events_file=str(file), rate=2, duration=1, **more)
