"""What the load test reads of the answers of `/v1`; fields it does not need may come and go."""

from __future__ import annotations

from typing import Any

import msgspec


class ShownItem(msgspec.Struct):
    """An item of a list, best first."""

    item_id: str
    categories: list[str] = []


class Degraded(msgspec.Struct):
    """What the answer gave up for speed."""

    step: str


class Recommendations(msgspec.Struct):
    """The answer of `POST /v1/recommendations`."""

    request_id: str
    items: list[ShownItem]
    degraded: Degraded
    fallback: str | None = None


class EventsTaken(msgspec.Struct):
    """The answer of `POST /v1/events`."""

    accepted: int
    duplicates: int
    rejected: list[Any]
