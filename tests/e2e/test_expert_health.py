"""Experts that are slow or dead in the running service: traffic moves within moments, and back by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import redis

pytestmark = pytest.mark.e2e


@pytest.fixture
def http(service: Any) -> Any:
    with httpx.Client(base_url=service.base, timeout=20, headers=service.admin) as client:
        yield client
        client.put("/v1/router", json={"health": {}, "inject": {}, "lane_us": 0})


@pytest.fixture
def wanted(http: httpx.Client) -> int:
    """An expert that tokens want."""
    demand = load_of(http)[0]["demand"]
    return int(max(range(len(demand)), key=demand.__getitem__))


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


def snapshot_of(http: httpx.Client) -> dict[str, Any]:
    """The first snapshot that saw only questions asked from now on."""
    now = http.get("/v1/experts?window_s=60").json()["snapshots"][-1]["ts"]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        ask(http)
        later = [s for s in http.get("/v1/experts?window_s=60").json()["snapshots"] if s["ts"] > now]
        for snapshot in later[1:]:  # the first one may hold what was asked before
            if snapshot["tokens"]:
                found: dict[str, Any] = snapshot
                return found
    pytest.fail("no snapshot of what was asked")


def load_of(http: httpx.Client) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = snapshot_of(http)["layers"]
    return layers


def served(http: httpx.Client, expert: int) -> int:
    return sum(layer["served"][expert] for layer in load_of(http))


@pytest.mark.parametrize("policy", ["price", "topk"])
def test_a_dead_expert_serves_nothing_and_answers_go_on(
    http: httpx.Client, wanted: int, policy: str, eventually: Callable[..., None]
) -> None:
    answer = http.put("/v1/router", json={"policy": policy, "health": {str(wanted): 0.0}})
    assert answer.status_code == 200
    assert answer.json()["health"] == {str(wanted): 0.0}
    eventually(lambda: served(http, wanted) == 0, what="traffic moved away from the dead expert")
    layers = load_of(http)
    assert all(layer["served"][wanted] == 0 and layer["capacity"][wanted] == 0 for layer in layers)
    assert any(layer["redirected_out"][wanted] for layer in layers)
    assert all(layer["dropped"] == 0 for layer in layers)  # the others have room for all of it

    assert http.put("/v1/router", json={"policy": "price", "health": {}}).json()["health"] == {}
    eventually(lambda: served(http, wanted) > 0, what="work for the expert that is well again")


def test_a_slow_expert_gets_its_share_of_the_capacity(
    http: httpx.Client, wanted: int, eventually: Callable[..., None]
) -> None:
    http.put("/v1/router", json={"health": {str(wanted): 0.25}})

    def a_quarter() -> bool:
        snapshot = snapshot_of(http)
        share = 0.25 * snapshot["capacity_factor"] * snapshot["tokens"] * 2 / 8
        found = [layer["capacity"][wanted] for layer in snapshot["layers"]]
        return all(share <= slots <= share + snapshot["batches"] for slots in found) and (
            snapshot["health"][wanted] == 0.25
        )

    eventually(a_quarter, what="a quarter of the capacity")


@pytest.mark.parametrize("fault", [200.0, "dead"], ids=["slow", "dead"])
def test_an_expert_made_slow_or_dead_is_found_by_its_times_and_comes_back(
    http: httpx.Client, wanted: int, fault: float | str, eventually: Callable[..., None]
) -> None:
    """Nobody says that it is not well: the engine measures it."""
    assert http.put("/v1/router", json={"inject": {str(wanted): fault}}).json()["inject"] == {str(wanted): fault}

    def found_out() -> bool:
        snapshot = snapshot_of(http)
        health = snapshot["health"]
        assert snapshot["injected_us"] in ({str(wanted): fault}, {})
        return bool(health[wanted] < 0.2 and min(h for e, h in enumerate(health) if e != wanted) == 1)

    eventually(found_out, what="an expert found out")
    layers = load_of(http)
    assert all(layer["served"][wanted] <= 0.1 * max(layer["served"]) for layer in layers)
    assert all(layer["dropped"] == 0 for layer in layers)
    assert http.put("/v1/router", json={"inject": {}}).json()["inject"] == {}
    eventually(lambda: snapshot_of(http)["health"] == [1.0] * 8, what="all well again, by themselves")


def test_an_experiment_that_somebody_forgot_ends_by_itself(
    http: httpx.Client, wanted: int, eventually: Callable[..., None]
) -> None:
    experiment, before_ms = {"inject": {str(wanted): "dead"}, "lane_us": 2.5}, time.time() * 1e3
    answer = http.put("/v1/router", json=experiment | {"inject_for_s": 600}).json()
    assert answer["inject_until"] == answer["lane_us_until"]
    assert before_ms + 599e3 <= answer["inject_until"] <= time.time() * 1e3 + 600e3
    eventually(lambda: snapshot_of(http)["injected_us"] == {str(wanted): "dead"}, what="an experiment")
    assert http.put("/v1/router", json=experiment | {"inject_for_s": 1}).status_code == 200

    def over() -> bool:
        snapshot, stands = snapshot_of(http), http.get("/v1/router").json()
        return not (snapshot["injected_us"] or snapshot["lane_us"] or stands["inject"] or stands["lane_us"])

    eventually(over, what="the end of the experiment")
    assert http.get("/v1/router").json()["inject_until"] is None
    eventually(lambda: snapshot_of(http)["health"] == [1.0] * 8, what="all well again")


@pytest.mark.parametrize(
    "body", [{"inject_for_s": 5}, {"inject": {}, "inject_for_s": 0}, {"lane_us": 1, "inject_for_s": 1e9}]
)
def test_a_wrong_end_of_an_experiment_is_refused(http: httpx.Client, body: dict[str, object]) -> None:
    answer = http.put("/v1/router", json=body)
    assert answer.status_code == 422
    assert "inject_for_s" in answer.text


def test_devices_of_their_own_are_emulated_while_somebody_wants_it(
    http: httpx.Client, eventually: Callable[..., None]
) -> None:
    assert http.put("/v1/router", json={"lane_us": 2.5}).json()["lane_us"] == 2.5
    eventually(lambda: snapshot_of(http)["lane_us"] == 2.5, what="emulated devices")
    assert snapshot_of(http)["health"] == [1.0] * 8
    assert http.put("/v1/router", json={"lane_us": 0}).json()["lane_us"] == 0
    eventually(lambda: snapshot_of(http)["lane_us"] == 0, what="one device for all")


@pytest.mark.parametrize("lane_us", [-1, 1e9, "fast", [1]])
def test_a_wrong_lane_time_is_refused(http: httpx.Client, lane_us: object) -> None:
    answer = http.put("/v1/router", json={"lane_us": lane_us})
    assert answer.status_code == 422
    assert "lane_us" in answer.text


@pytest.mark.parametrize("inject", [{"8": 5}, {"3": -1}, {"3": "ill"}, {"3": 1e9}])
def test_a_wrong_injection_is_refused(http: httpx.Client, inject: dict[str, object]) -> None:
    answer = http.put("/v1/router", json={"inject": inject})
    assert answer.status_code == 422
    assert "inject" in answer.text


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
