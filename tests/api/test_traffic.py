"""The traffic of the last minute under two policies, against the real service."""

from __future__ import annotations

import time
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


def test_recent_queries_again_under_two_policies(http: httpx.Client) -> None:
    for n in range(12):
        body = {"history": [f"i{n}", f"i{n + 1}"], "k": 10}
        assert http.post("/v1/recommendations", json=body).status_code == 200
    same = compared(http, "topk", "topk", seconds=60, most=100)
    assert same["asked"] == same["compared"] == same["first"]["answered"] >= 12
    assert (same["same"], same["overlap"], same["first_item_same"]) == (1.0, 1.0, 1.0)
    assert sum(same["first"]["steps"].values()) == same["asked"]
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


def test_only_the_newest_queries_are_remembered_and_none_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    ring = RecentQueries()
    for n in range(recent.KEPT + 10):
        monkeypatch.setattr(time, "monotonic", lambda n=n: now + n / 100)
        ring.add(Query(user_id=f"u{n}"))
    found = ring.within(60)
    assert len(found) == recent.KEPT
    assert found[0].user_id == "u10"
    assert [query.user_id for query in ring.within(0.015)] == ["u520", "u521"]
    monkeypatch.setattr(time, "monotonic", lambda: now + 10_000)
    assert ring.within(60) == []
    ring.add(Query(user_id="late"))
    assert len(ring._ring) == 1
