"""A policy that does not keep what it has to goes by itself, and everybody can see why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture
def http(service: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.base, timeout=20, headers=service.admin) as client:
        client.put("/v1/router", json={"policy": "price", "capacity_factor": 1.5}).raise_for_status()
        yield client
        client.put("/v1/router", json={"policy": "price", "capacity_factor": 1.5}).raise_for_status()


@pytest.fixture
def traffic(service: Any) -> Iterator[None]:
    """Somebody asks all the time."""
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=service.base, timeout=20) as client:
            while not stop.wait(0.02):
                client.post("/v1/recommendations", json={"history": ["i1", "i2"], "k": 5})

    asking = threading.Thread(target=ask)
    asking.start()
    yield
    stop.set()
    asking.join()


def test_a_broken_budget_brings_back_the_policy_before(
    http: httpx.Client, traffic: None, eventually: Callable[..., None]
) -> None:
    budget = {"score_kept_min": 0.99, "seconds": 1}
    now = http.put("/v1/router", json={"policy": "hash", "quality_budget": budget}).json()
    assert now["quality_budget"] == {**budget, "previous_policy": "price", "previous_capacity_factor": 1.5}
    assert now["policy"] == "hash"
    eventually(lambda: http.get("/v1/router").json()["policy"] == "price", what="the policy before")
    after = http.get("/v1/router").json()
    assert after["quality_budget"] is None
    assert after["returned"]["why"].startswith("hash: score kept 0.")
    assert "at least 0.99" in after["returned"]["why"]

    def said() -> bool:
        last = http.get("/v1/experts?window_s=5").json()["snapshots"][-1]
        return last["policy"] == "price" and last["returned"] == after["returned"]["why"]

    eventually(said, what="telemetry that says so")
    assert http.put("/v1/router", json={"policy": "topk"}).json()["returned"] is None  # a new story


def test_a_budget_that_is_kept_changes_nothing(
    http: httpx.Client, traffic: None, eventually: Callable[..., None]
) -> None:
    http.put("/v1/router", json={"policy": "topk", "quality_budget": {"score_kept_min": 0.9, "seconds": 1}})

    def watched() -> bool:
        seen = [
            s for s in http.get("/v1/experts?window_s=60").json()["snapshots"]
            if s["policy"] == "topk" and s["score_kept_min"] == 0.9
        ]  # fmt: skip
        return len(seen) >= 8

    eventually(watched, what="two seconds under the budget")
    assert http.get("/v1/router").json()["policy"] == "topk"
    http.put("/v1/router", json={"health": {}})  # says nothing of the policy, so the budget stays
    assert http.get("/v1/router").json()["quality_budget"]["score_kept_min"] == 0.9


@pytest.mark.parametrize(
    "body",
    [
        {"quality_budget": {"score_kept_min": 0.9}},
        {"policy": "drop", "quality_budget": {"score_kept_min": 0}},
        {"policy": "drop", "quality_budget": {"score_kept_min": 1.1}},
        {"policy": "drop", "quality_budget": {"score_kept_min": 0.9, "seconds": 0}},
        {"policy": "drop", "quality_budget": {}},
    ],
)
def test_a_wrong_budget_is_refused(http: httpx.Client, body: dict[str, Any]) -> None:
    answer = http.put("/v1/router", json=body)
    assert answer.status_code == 422
    assert "quality_budget" in answer.text
    assert http.get("/v1/router").json()["policy"] == "price"
