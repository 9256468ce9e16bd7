"""The traffic of the last minute under two policies, against the real service."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from recsys.api import recent
from recsys.api.query import Query
from recsys.api.recent import RecentQueries


@pytest.fixture
def http(service: Any) -> Any:
    headers = {"X-Deadline-Ms": "5000", "X-Api-Key": "test-key"}
    with httpx.Client(base_url=service.base, timeout=20, headers=headers) as client:
        yield client


def compared(http: httpx.Client, *policies: str, **more: Any) -> dict[str, Any]:
    answer = http.post("/v1/router/compare/traffic", json={"policies": policies, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_recent_queries_again_under_two_policies(http: httpx.Client, eventually: Any) -> None:
    for n in range(12):
        body = {"history": [f"i{n}", f"i{n + 1}"], "k": 10}
        assert http.post("/v1/recommendations", json=body).status_code == 200
    nothing = {"history": ["i1"], "filters": {"categories_any": ["none such"]}}
    assert http.post("/v1/recommendations", json=nothing).json()["items"] == []

    def at_one_step() -> bool:
        """Steps economise at other times, and then a policy differs from itself."""
        nonlocal same
        same = compared(http, "topk", "topk", seconds=60, most=12)
        return same["first"]["steps"].keys() == same["second"]["steps"].keys() and len(same["first"]["steps"]) == 1

    same: dict[str, Any] = {}
    eventually(at_one_step, what="the engine is as pressed in both turns")
    assert same["asked"] == 12
    # other tests ask the same service, and what one of them asked may make no sense any more: refused, and told
    assert 6 <= same["compared"] == same["first"]["answered"] == 12 - same["first"]["refused"]
    assert (same["same"], same["overlap"], same["first_item_same"]) == (1.0, 1.0, 1.0)
    assert sum(same["first"]["steps"].values()) == same["compared"]
    assert 0 < same["first"]["compute_ms_p50"] <= same["first"]["compute_ms_p99"]
    blind = compared(http, "topk", "hash", most=5)
    assert blind["asked"] == 5
    assert blind["kept"] >= 12
    assert blind["second"]["policy"] == "hash"
    assert blind["second"]["score_kept"] < blind["first"]["score_kept"]
    assert blind["same"] < 1.0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"policies": ["topk", "fastest"]}, "policies"),
        ({"policies": ["topk", "price"], "most": 101}, "most"),
        ({"policies": ["topk", "price"], "seconds": 0}, "seconds"),
    ],
)
def test_a_wrong_request_names_its_field(http: httpx.Client, body: dict[str, Any], field: str) -> None:
    answer = http.post("/v1/router/compare/traffic", json=body)
    assert answer.status_code == 422
    assert answer.json()["field"] == field


def test_it_needs_the_key(service: Any) -> None:
    answer = httpx.post(f"{service.base}/v1/router/compare/traffic", json={"policies": ["topk", "price"]})
    assert answer.status_code == 401


def test_only_the_newest_queries_are_remembered() -> None:
    async def run() -> None:
        ring = RecentQueries()
        for n in range(recent.KEPT + 10):
            ring.add(Query(user_id=f"u{n}"))
        found = ring.within(60)
        assert len(found) == recent.KEPT
        assert found[0].user_id == "u10"
        assert ring.within(0) == []

    asyncio.run(run())


def test_long_queries_leave_room_for_fewer() -> None:
    async def run() -> None:
        ring = RecentQueries()
        for n in range(recent.KEPT):
            ring.add(Query(user_id=f"u{n}", candidates=("i",) * 2_000))
        assert len(ring) == recent.IDS_KEPT // 2_001
        ring.forget("u511")
        ring.add(Query(user_id="u511", history=("i",) * 2_000))
        assert len(ring) == recent.IDS_KEPT // 2_001

    asyncio.run(run())


def test_a_deleted_user_is_forgotten_at_once_and_everybody_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        ring = RecentQueries()
        for n in range(6):
            ring.add(Query(user_id=f"u{n % 2}"))
        ring.forget("u1")
        assert [query.user_id for query in ring.within(60)] == ["u0"] * 3
        while len(ring):  # noqa: ASYNC110 - though nobody asks and nobody looks
            await asyncio.sleep(0.005)

    monkeypatch.setattr(recent, "KEPT_S", 0.05)
    asyncio.run(asyncio.wait_for(run(), 20))
