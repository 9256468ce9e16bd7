"""A data set lived through again: its events go through the stream in time order while queries are asked.

For each event of the held-out tail, the user's next item is asked for *before* the event is sent, from the running
service, and from the service's own popular items at that moment with what the user has seen left out. So both know
exactly the past. NDCG@10 and hit rate follow from the rank of the item that really came next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import polars as pl
from rich.console import Console
from rich.progress import track

from recsys.data.dataset import Dataset
from recsys.data.splits import split_by_time
from recsys.errors import InputError, UnavailableError
from recsys.events.replay import publish_catalogue, replay
from recsys.stack.local import LocalStack

K = 10
WINDOW = 200  # of the popular items, enough to leave out what a user has seen


@dataclass(slots=True)
class _Quality:
    """Running NDCG@10 and hit rate of one source of answers."""

    gain: float = 0.0
    hits: int = 0

    def add(self, answer: list[str], truth: str) -> None:
        if truth in answer[:K]:
            self.gain += 1 / math.log2(answer.index(truth) + 2)
            self.hits += 1


def replay_and_ask(
    stack: LocalStack, dataset_folder: Path, *, test_share: float, most: int, console: Console
) -> list[dict[str, float | str]]:
    """Replay everything before the tail, then the tail with a question before each event.

    Args:
        stack: a running service with a model that was trained on nothing of the tail.
        dataset_folder: the data set.
        test_share: the tail, as a share of all events in time.
        most: questions asked, spread evenly over the tail; all of its events are sent all the same.
        console: where progress is shown.

    Returns:
        One row for the service and one for popularity: hit rate and NDCG@10 over the same questions. Only first
        meetings of a user with an item count, because seen items are left out of answers.

    Raises:
        InputError: the tail holds nothing to ask.
    """
    dataset = Dataset.load(dataset_folder)
    parts = split_by_time(dataset.interactions, test_share=test_share)
    settings = stack.settings()
    publish_catalogue(dataset, settings, console=console)
    replay(replace(dataset, interactions=parts.train), settings, console=console)
    tail = parts.test
    every = max(1, tail.height // most)
    service, popularity, asked = _Quality(), _Quality(), 0
    seen = _seen(parts.train)
    with httpx.Client(base_url=stack.base, timeout=10) as http:
        rows = tail.select("user_id", "item_id", "kind", "value", "ts").iter_rows(named=True)
        for n, row in enumerate(track(rows, "Tail", total=tail.height, console=console, transient=True)):
            user, item = row["user_id"], row["item_id"]
            known = seen.setdefault(user, set())
            if n % every == 0 and item not in known and row["kind"] != "hide":
                asked += 1
                service.add(_recommended(http, user), item)
                popularity.add(_popular(http, known), item)
            _send(http, row)
            known.add(item)
    if not asked:
        raise InputError(f"{dataset_folder}: the last {test_share:.0%} of events hold no first meeting to ask for")
    return [
        {"answers": name, "questions": asked, "hr_10": q.hits / asked, "ndcg_10": q.gain / asked}
        for name, q in (("service", service), ("popularity", popularity))
    ]


def _seen(interactions: pl.DataFrame) -> dict[str, set[str]]:
    grouped = interactions.group_by("user_id").agg(pl.col("item_id"))
    return {user: set(items) for user, items in grouped.iter_rows()}


def _recommended(http: httpx.Client, user: str) -> list[str]:
    answer = http.post("/v1/recommendations", json={"user_id": user, "k": K}, headers={"X-Deadline-Ms": "5000"})
    body = answer.json()
    if answer.status_code != 200 or body["fallback"]:
        raise UnavailableError(f"the service did not answer from its model: {answer.text[:300]}")
    return [item["item_id"] for item in body["items"]]


def _popular(http: httpx.Client, seen: set[str]) -> list[str]:
    answer = http.get("/v1/popular", params={"window": "all", "k": WINDOW})
    return [item["item_id"] for item in answer.json()["items"] if item["item_id"] not in seen][:K]


def _send(http: httpx.Client, row: dict[str, object]) -> None:
    event = {name: value for name, value in row.items() if value is not None}
    answer = http.post("/v1/events", json=event)
    if answer.status_code != 202:
        raise UnavailableError(f"an event was not taken: {answer.text[:300]}")
