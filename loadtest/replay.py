"""Real events from a file, through a mapping of its columns: MovieLens layouts, or any csv."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from heapq import nsmallest
from pathlib import Path
from typing import NamedTuple

from loadtest.options import LoadTestError, Options

LINES_MAX = 50_000_000
LIKED_FROM = 4.0
COLUMNS = ("user", "item", "ts", "kind", "value")


class RealEvent(NamedTuple):
    """Somebody did something with an item; `ts` in the unit of the file."""

    ts: float
    user_id: str
    item_id: str
    kind: str


def load_events(options: Options) -> list[RealEvent]:
    """The first `--rate` x `--duration` events of `--events-file` in the order of their times.

    Raises:
        LoadTestError: naming the file, the line and what was expected; or that there are fewer events.
    """
    path, wanted = Path(options.events_file), max(2, round(options.rate * options.duration))
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as lines:
            events = nsmallest(wanted, _events(path, lines, _mapping(options.event_columns)), key=lambda e: e.ts)
    except OSError as error:
        raise LoadTestError(f"--events-file: {options.events_file!r} cannot be read: {error.strerror}") from None
    if len(events) < wanted:
        raise LoadTestError(f"--events-file: {path} has {len(events)} events, --rate x --duration needs {wanted}")
    return events


def _mapping(text: str) -> dict[str, str]:
    pairs = dict(pair.strip().partition("=")[::2] for pair in text.split(","))
    if not pairs.keys() <= set(COLUMNS) or not {"user", "item", "ts"} <= pairs.keys() or not all(pairs.values()):
        raise LoadTestError(f"--event-columns: {text!r} is not like user=1,item=2,value=3,ts=4 or user=NAME,...")
    return pairs


def _events(path: Path, lines: Iterator[str], mapping: dict[str, str]) -> Iterator[RealEvent]:
    rows = _rows(lines)
    places = _places(path, rows, mapping)
    for number, row in enumerate(rows, start=1):
        if number > LINES_MAX:
            raise LoadTestError(f"--events-file: {path} has more than {LINES_MAX} lines")
        try:
            found = {name: row[place] for name, place in places.items()}
            yield RealEvent(float(found["ts"]), found["user"], found["item"], _kind(found))
        except (IndexError, ValueError):
            raise LoadTestError(f"--events-file: {path}, row {number}: {row} does not fit {mapping}") from None


def _rows(lines: Iterator[str]) -> Iterator[list[str]]:
    """Cells; what separates them is seen from the first line."""
    first = next(lines, "")
    if "::" in first:
        return (line.rstrip("\r\n").split("::") for line in _again(first, lines))
    return csv.reader(_again(first, lines), delimiter="\t" if "\t" in first else ",")


def _again(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _places(path: Path, rows: Iterator[list[str]], mapping: dict[str, str]) -> dict[str, int]:
    """Column of each name: a number counts from 1, anything else is looked up in the header."""
    if all(column.isdigit() and int(column) > 0 for column in mapping.values()):
        return {name: int(column) - 1 for name, column in mapping.items()}
    header = next(rows, [])
    try:
        return {name: header.index(column) for name, column in mapping.items()}
    except ValueError:
        columns = ", ".join(header[:20])
        raise LoadTestError(f"--event-columns: {mapping} does not fit the columns of {path}: {columns}") from None


def _kind(found: dict[str, str]) -> str:
    """As named; a value is a rating, of which 4 and 5 are likes; a mere event is a click."""
    if "kind" in found:
        return found["kind"]
    return "like" if "value" in found and float(found["value"]) >= LIKED_FROM else "click"
