"""Experts that are slow or dead in the running service: traffic moves within moments, and back by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import redis

pytestmark = pytest.mark.e2e

DEAD = 3


@pytest.fixture
def http(service: Any) -> Any:
    with httpx.Client(base_url=service.base, timeout=20, headers=service.admin) as client:
        yield client
        client.put("/v1/router", json={"health": {}})


def ask(http: httpx.Client) -> dict[str, Any]:
    """A recommendation of all 150 items, whose tokens want every expert."""
    answer = http.post(
        "/v1/recommendations", json={"history": ["i1", "i2"], "k": 5}, headers={"X-Deadline-Ms": "10000"}
    )
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    assert found["fallback"] is None
    assert len(found["items"]) == 5
    return found


def load_of(http: httpx.Client) -> list[dict[str, Any]]:
    """Layers of the first snapshot that saw only questions asked from now on."""
    now = http.get("/v1/experts?window_s=60").json()["snapshots"][-1]["ts"]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        ask(http)
        later = [s for s in http.get("/v1/experts?window_s=60").json()["snapshots"] if s["ts"] > now]
        for snapshot in later[1:]:  # the first one may hold what was asked before
            if snapshot["tokens"]:
                layers: list[dict[str, Any]] = snapshot["layers"]
                return layers
    pytest.fail("no snapshot of what was asked")


def served(http: httpx.Client) -> int:
    return sum(layer["served"][DEAD] for layer in load_of(http))


def test_a_dead_expert_serves_nothing_and_answers_go_on(http: httpx.Client, eventually: Callable[..., None]) -> None:
    eventually(lambda: served(http) > 0, what="work for the expert while it is well")
    answer = http.put("/v1/router", json={"health": {str(DEAD): 0.0}})
    assert answer.status_code == 200
    assert answer.json()["health"] == {str(DEAD): 0.0}
    eventually(lambda: served(http) == 0, what="traffic moved away from the dead expert")
    layers = load_of(http)
    assert all(layer["served"][DEAD] == 0 and layer["capacity"][DEAD] == 0 for layer in layers)
    assert any(layer["redirected_out"][DEAD] for layer in layers)
    assert all(layer["dropped"] == 0 for layer in layers)  # in calm the others have room for all of it

    assert http.put("/v1/router", json={"health": {}}).json()["health"] == {}
    eventually(lambda: served(http) > 0, what="work for the expert that is well again")


def test_a_slow_expert_gets_its_share_of_the_capacity(http: httpx.Client, eventually: Callable[..., None]) -> None:
    http.put("/v1/router", json={"health": {str(DEAD): 0.25}})

    def a_quarter() -> bool:
        return all(abs(4 * layer["capacity"][DEAD] / layer["capacity"][0] - 1) < 0.05 for layer in load_of(http))

    eventually(a_quarter, what="a quarter of the capacity")


@pytest.mark.parametrize("health", [{"8": 0.5}, {"x": 0.5}, {"-1": 0.5}, {"3": 1.5}, {"3": -0.1}, {"3": None}])
def test_a_wrong_health_is_refused(http: httpx.Client, health: dict[str, float]) -> None:
    answer = http.put("/v1/router", json={"health": health})
    assert answer.status_code == 422
    assert "health" in answer.text
    assert http.get("/v1/router").json()["health"] == {}


def test_nonsense_in_redis_changes_nothing_and_stops_nothing(
    service: Any, http: httpx.Client, eventually: Callable[..., None]
) -> None:
    with redis.Redis.from_url(service.redis.url) as client:
        client.hset("recsys:router", "health", '{"99": 0.5}')
        ask(http)
        eventually(lambda: "no expert 99" in service.logs(), what="the engine's complaint")
        ask(http)
        client.hdel("recsys:router", "health")
    assert http.get("/v1/router").json()["health"] == {}
