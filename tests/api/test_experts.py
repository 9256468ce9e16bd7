"""Ten minutes of load snapshots leave in pages: all of them once, in order, and none that came meanwhile."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
from fastapi import FastAPI

from recsys.api import problems
from recsys.api.deps import resources
from recsys.api.routes import experts
from recsys.state.telemetry import PAGE, TelemetryReader

COUNT = 3 * PAGE + 5


def publish(stream: Any, count: int) -> None:
    for n in range(count):
        stream.redis.xadd(stream.keys.telemetry, {"s": msgspec.json.encode({"engine": f"e{n % 3}", "n": n})})


def application(telemetry: TelemetryReader) -> httpx.AsyncClient:
    app = FastAPI()
    problems.install(app)
    app.include_router(experts.routes)
    app.dependency_overrides[resources] = lambda: SimpleNamespace(telemetry=telemetry)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def test_the_answer_holds_every_snapshot_in_order(make_stream: Any) -> None:
    stream = make_stream()
    publish(stream, COUNT)

    async def ask(client: Any) -> tuple[Any, Any]:
        async with application(TelemetryReader(client, stream.keys)) as http:
            everything = (await http.get("/v1/experts?window_s=600")).json()
            nothing = (await http.get(f"/v1/experts?since={int(time.time() * 1e3) + 60_000}")).json()
        return everything, nothing

    everything, nothing = stream.read(ask)
    assert [snapshot["n"] for snapshot in everything["snapshots"]] == list(range(COUNT))
    assert everything["engines"] == ["e0", "e1", "e2"]
    assert nothing == {"snapshots": [], "engines": []}


def test_pages_are_short_and_end_where_they_were_told(make_stream: Any) -> None:
    stream = make_stream()
    publish(stream, 2 * PAGE)

    async def read(client: Any) -> list[list[str]]:
        telemetry = TelemetryReader(client, stream.keys)
        pages = []
        async for page in telemetry.pages(since_ms=0, until=await telemetry.last_id()):
            pages.append(page)
            publish(stream, PAGE)  # a slow reader must not be sent more and more
        return pages

    assert [len(page) for page in stream.read(read)] == [PAGE, PAGE]


def test_without_a_store_the_answer_does_not_begin(make_stream: Any) -> None:
    nobody = make_stream("redis://127.0.0.1:1/0")

    async def ask(client: Any) -> httpx.Response:
        async with application(TelemetryReader(client, nobody.keys)) as http:
            return await http.get("/v1/experts")

    assert nobody.read(ask).status_code == 503
