"""Load snapshots as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from recsys.api.load_stream import WAITING_MAX, LoadStream
from recsys.errors import OverloadedError
from recsys.wire import decode_snapshot


class Published:
    """A telemetry stream that a test writes to."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []

    def add(self, count: int = 1) -> None:
        self.entries += [(f"{len(self.entries) + n + 1}-0", "{}") for n in range(count)]

    async def last_id(self) -> str:
        return self.entries[-1][0] if self.entries else "0-0"

    async def after(self, entry_id: str) -> list[tuple[str, str]]:
        return self.entries[int(entry_id.split("-")[0]) :]


def test_snapshots_arrive_as_events(service: Any) -> None:
    with httpx.stream("GET", f"{service.base}/v1/experts/stream", timeout=10) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        data = []
        for line in answer.iter_lines():
            if line.startswith("data: "):
                data.append(decode_snapshot(line.removeprefix("data: ")))
            if len(data) == 3:
                break
    assert data[0].ts < data[1].ts < data[2].ts
    assert len(data[0].layers[0].demand) == 8


async def _first(events: AsyncIterator[bytes]) -> bytes:
    async with asyncio.timeout(5):
        return await anext(events)


def test_a_slow_reader_is_cut_off_and_the_others_go_on() -> None:
    async def run() -> None:
        published = Published()
        stream = LoadStream(msgspec.convert(published, Any), listeners_max=2)
        stream.start()
        slow, quick = stream.listen(), stream.listen()
        assert (await _first(slow)).startswith(b":")
        assert (await _first(quick)).startswith(b":")
        with pytest.raises(OverloadedError, match="2 streams"):
            stream.listen()
        await asyncio.sleep(0)  # the reader notes where the stream stands
        while stream.listeners == 2:
            published.add(WAITING_MAX // 2)
            for _ in range(WAITING_MAX // 2):
                assert b"event: load" in await _first(quick)
        assert stream.listeners == 1
        async with asyncio.timeout(5):
            assert [event async for event in slow] == []
        published.add()
        assert b"data: {}" in await _first(quick)
        third = stream.listen()
        assert (await _first(third)).startswith(b":")
        await third.aclose()
        assert stream.listeners == 1, "a closed stream gives its place back"
        await stream.close()
        async with asyncio.timeout(5):
            assert [event async for event in quick] == []

    asyncio.run(run())
