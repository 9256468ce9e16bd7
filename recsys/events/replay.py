"""Sends a data set through the public stream: its items, and its interactions in the order of their times."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from recsys.config import Settings
from recsys.data.dataset import Dataset
from recsys.errors import InputError
from recsys.events.producer import BulkProducer

_BURSTS_PER_S = 50  # with a rate, events go out in this many small writes per second


def publish_catalogue(dataset: Dataset, settings: Settings, *, console: Console | None = None) -> int:
    """Send every item as an `item` event; returns how many. Sending a catalogue again changes nothing.

    Raises:
        OverloadedError: no worker applies events.
        UnavailableError: Redis is away.
    """
    with _progress("Items", dataset.items.height, console) as advance:
        return BulkProducer(settings).publish(_items(dataset), advance)


def replay(
    dataset: Dataset,
    settings: Settings,
    *,
    last: int | None = None,
    rate_per_s: float | None = None,
    console: Console | None = None,
) -> int:
    """Send interactions in time order and return, when all are applied, how many were sent.

    The id of each event is made of its row, so that a replay which is repeated within the de-duplication window
    (after an interruption, say) changes nothing.

    Args:
        dataset: what to send; times are kept.
        settings: where to, and the bounds.
        last: only this many newest interactions.
        rate_per_s: events per second; without it, as fast as they are applied.
        console: where progress is shown.

    Raises:
        InputError: a bad argument, or times further in the future than the workers accept.
        OverloadedError: no worker applies events.
        UnavailableError: Redis is away.
    """
    if last is not None and last < 0:
        raise InputError(f"last: {last} is negative", field="last")
    if rate_per_s is not None and not 0 < rate_per_s < float("inf"):
        raise InputError(f"rate_per_s: {rate_per_s} is not a positive number", field="rate_per_s")
    _check_times(dataset, settings)
    total = dataset.interactions.height
    first = 0 if last is None else max(total - last, 0)
    producer = BulkProducer(settings)
    entries: Iterable[Mapping[str, str]] = _interactions(dataset, first)
    size = producer.PIPELINE
    if rate_per_s is not None:
        size = max(1, min(size, int(rate_per_s / _BURSTS_PER_S)))
        entries = _paced(entries, rate_per_s, size)
    with _progress("Interactions", total - first, console) as advance:
        sent = producer.publish(entries, advance, pipeline=size)
        producer.wait_until_applied()
    return sent


def _items(dataset: Dataset) -> Iterator[Mapping[str, str]]:
    for item_id, title, categories, year in dataset.items.select("item_id", "title", "categories", "year").iter_rows():
        entry = {"type": "item", "item_id": item_id, "title": title, "categories": _json(categories or [])}
        yield entry if year is None else {**entry, "attributes": _json({"year": year})}


def _interactions(dataset: Dataset, first: int) -> Iterator[Mapping[str, str]]:
    rows = dataset.interactions.slice(first).select("user_id", "item_id", "kind", "value", "ts")
    for n, (user_id, item_id, kind, value, ts) in enumerate(rows.iter_rows(), start=first):
        digest = hashlib.blake2b(f"{n}|{user_id}|{item_id}|{kind}|{ts}".encode(), digest_size=12)
        entry = {"type": "interaction", "event_id": digest.hexdigest(), "ts": str(ts)}
        entry |= {"user_id": user_id, "item_id": item_id, "kind": kind}
        yield entry if value is None else {**entry, "value": repr(value)}


def _check_times(dataset: Dataset, settings: Settings) -> None:
    newest = dataset.interactions["ts"].max()
    bound = int(time.time() * 1000) + settings.events.future_max_ms
    if isinstance(newest, int) and newest > bound:
        raise InputError(
            f"ts: the data set ends at {newest}, more than {settings.events.future_max_ms} ms in the future", field="ts"
        )


def _paced(entries: Iterable[Mapping[str, str]], rate_per_s: float, burst: int) -> Iterator[Mapping[str, str]]:
    began = time.monotonic()
    for n, entry in enumerate(entries):
        if n % burst == 0:
            time.sleep(max(0.0, began + n / rate_per_s - time.monotonic()))
        yield entry


@contextmanager
def _progress(what: str, total: int, console: Console | None) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=console is None) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
