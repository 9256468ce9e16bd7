"""What was shown is written behind the answers, and goes on being written after Redis was away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from recsys.api.impressions import ImpressionWriter
from recsys.errors import OverloadedError, UnavailableError
from recsys.events.schema import Event


class _Producer:
    """Fails as many times as it was told to."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.written: list[Event] = []
        self.wrote = asyncio.Event()

    async def add(self, events: list[Event]) -> list[str]:
        if self.failures:
            raise self.failures.pop(0)
        self.written += events
        self.wrote.set()
        return []


@pytest.mark.parametrize("failure", [UnavailableError("no answer"), OverloadedError("too many wait")])
def test_a_failed_write_is_counted_and_the_next_one_succeeds(failure: Exception) -> None:
    dropped = Counter("dropped", "d", registry=CollectorRegistry())

    async def run() -> _Producer:
        producer: Any = _Producer(failure)
        writer = ImpressionWriter(producer, longest=10, dropped=dropped)
        writer.start()
        writer.add("r1", "u", ("i1",))
        while producer.failures:  # noqa: ASYNC110 - the failure tells nobody
            await asyncio.sleep(0.001)
        writer.add("r2", "u", ("i2",))
        await asyncio.wait_for(producer.wrote.wait(), 20)
        await writer.close()
        found: _Producer = producer
        return found

    producer = asyncio.run(run())
    assert [event.event_id for event in producer.written] == ["imp-r2"]
    assert dropped._value.get() == 1


def test_what_is_queued_is_written_at_the_end_and_what_is_too_much_is_counted() -> None:
    dropped = Counter("dropped", "d", registry=CollectorRegistry())

    async def run() -> _Producer:
        producer: Any = _Producer()
        writer = ImpressionWriter(producer, longest=3, dropped=dropped)
        writer.start()
        for n in range(5):
            writer.add(f"r{n}", "u", ("i1",))
        await writer.close()
        found: _Producer = producer
        return found

    assert len(asyncio.run(run()).written) == 3
    assert dropped._value.get() == 2
