"""What the first screen of the README promises, against real processes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import httpx
import pytest
import redis

pytestmark = pytest.mark.e2e


@pytest.fixture
def http(service: Any) -> Any:
    with httpx.Client(base_url=service.base, timeout=10, headers=service.admin) as client:
        yield client


def recommend(http: httpx.Client, **body: Any) -> Any:
    answer = http.post("/v1/recommendations", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_like_changes_the_very_next_answer(http: httpx.Client, eventually: Any) -> None:
    before = recommend(http, user_id="story-1", k=10)
    assert before["cold_start"]
    liked = before["items"][0]["item_id"]
    event = {"user_id": "story-1", "item_id": liked, "kind": "like", "request_id": before["request_id"]}
    assert http.post("/v1/events", json=event).json()["accepted"] == 1
    eventually(lambda: not recommend(http, user_id="story-1", k=10)["cold_start"], what="the like to count")
    after = recommend(http, user_id="story-1", k=10)
    assert liked not in {item["item_id"] for item in after["items"]}
    user = http.get("/v1/users/story-1").json()
    assert [entry["item_id"] for entry in user["history"]] == [liked]
    assert user["history"][0]["title"]


def test_events_by_hand_through_the_stream_count_too(service: Any, http: httpx.Client, eventually: Any) -> None:
    client = redis.Redis.from_url(service.redis.url)
    client.xadd("recsys:events", {"type": "interaction", "user_id": "story-2", "item_id": "i5", "kind": "hide"})
    eventually(lambda: http.get("/v1/users/story-2").status_code == 200, what="the event to be applied")
    answer = recommend(http, user_id="story-2", k=200)
    assert "i5" not in {item["item_id"] for item in answer["items"]}
    client.close()


def test_a_batch_reports_each_event_by_itself(http: httpx.Client, eventually: Any) -> None:
    good = {"user_id": "story-3", "item_id": "i1", "kind": "view", "event_id": "story-3-a"}
    batch = {"events": [good, {**good, "kind": "stare"}, {**good, "user_id": 7}, "text", good]}
    answer = http.post("/v1/events", json=batch)
    assert answer.status_code == 202
    body = answer.json()
    assert (body["accepted"], body["duplicates"]) == (1, 1)
    assert [(r["index"], r["field"]) for r in body["rejected"]] == [(1, "kind"), (2, "user_id"), (3, None)]
    eventually(lambda: http.get("/v1/users/story-3").status_code == 200, what="the event to be applied")
    again = http.post("/v1/events", json=good).json()
    assert (again["accepted"], again["duplicates"]) == (0, 1)


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ({"item_id": "i1", "kind": "view"}, "user_id"),
        ({"user_id": "u", "item_id": "i1", "kind": "stare"}, "kind"),
        ({"user_id": "u", "item_id": "i1", "kind": "view", "ts": 1_700_000_000}, "ts"),
        ({"user_id": "u", "item_id": "i1", "kind": "view", "ts": "now"}, "ts"),
        ({"user_id": "u", "item_id": "i1", "kind": "view", "ts": 9_999_999_999_999}, "ts"),
        ({"user_id": "u", "item_id": "i1", "kind": "view", "value": True}, "value"),
        ({"user_id": "u", "item_id": "i1", "kind": "view", "colour": "red"}, "colour"),
        ({"type": "impression", "user_id": "u", "request_id": "r", "items": ["i1"]}, "type"),
        ({"type": "earthquake"}, "type"),
        ({"type": "item", "item_id": "x", "title": "X", "categories": "drama"}, "categories"),
    ],
)
def test_a_wrong_event_is_told_which_field(http: httpx.Client, event: dict[str, Any], field: str) -> None:
    answer = http.post("/v1/events", json=event)
    assert answer.status_code == 422
    assert answer.json()["field"] == field


def test_too_many_events_in_one_call_and_odd_batches(http: httpx.Client) -> None:
    for body in ({"events": []}, {"events": [{}] * 1001}, {"events": {}}, {"events": [], "more": 1}):
        answer = http.post("/v1/events", json=body)
        assert (answer.status_code, answer.json()["field"]) == (422, "events")


def test_a_new_item_becomes_recommendable_and_goes_again(http: httpx.Client, eventually: Any) -> None:
    body = {"title": "Fresh", "categories": ["Spy"], "attributes": {"year": 2026}}
    assert http.put("/v1/items/fresh", json=body).status_code == 202
    eventually(
        lambda: [i["item_id"] for i in recommend(http, history=[], candidates=["fresh"])["items"]] == ["fresh"],
        what="the new item in answers",
    )
    assert http.get("/v1/items/fresh").json()["title"] == "Fresh"
    assert len(http.get("/v1/items/fresh/similar?k=5").json()["items"]) == 5
    assert http.delete("/v1/items/fresh").status_code == 202
    eventually(lambda: recommend(http, history=[], candidates=["fresh"])["items"] == [], what="the item out of answers")
    assert http.get("/v1/items/fresh").status_code == 404
    assert http.get("/v1/items/fresh/similar").status_code == 404


def test_a_profile_is_kept_and_a_user_is_forgotten(service: Any, http: httpx.Client, eventually: Any) -> None:
    assert http.put("/v1/users/story-4", json={"attributes": {"country": "NO"}}).status_code == 202
    http.post("/v1/events", json={"user_id": "story-4", "item_id": "i1", "kind": "like"})
    eventually(
        lambda: http.get("/v1/users/story-4").json().get("counts") == {"like": 1}, what="profile and event applied"
    )
    assert http.get("/v1/users/story-4").json()["attributes"] == {"country": "NO"}
    assert http.delete("/v1/users/story-4").status_code == 202
    eventually(lambda: http.get("/v1/users/story-4").status_code == 404, what="the user forgotten")


def test_admin_calls_need_the_key(service: Any) -> None:
    for headers in ({}, {"X-Api-Key": "wrong"}, {"X-Api-Key": b"\xfc"}):
        with httpx.Client(base_url=service.base, headers=headers) as http:
            for answer in (
                http.put("/v1/items/x", json={"title": "X"}),
                http.delete("/v1/items/x"),
                http.delete("/v1/users/x"),
                http.put("/v1/router", json={"policy": "topk"}),
            ):
                assert answer.status_code == 401
                assert answer.headers["content-type"] == "application/problem+json"


def test_the_policy_is_switched_live(http: httpx.Client, eventually: Any) -> None:
    state = http.get("/v1/router").json()
    assert {"topk", "drop", "price"} <= set(state["policies"])
    for policy in ("topk", state["policy"]):
        assert http.put("/v1/router", json={"policy": policy}).json()["policy"] == policy
        eventually(
            lambda policy=policy: recommend(http, history=["i1"])["policy"] == policy, what=f"answers by {policy}"
        )
    assert http.put("/v1/router", json={"policy": "magic"}).status_code == 422
    assert http.put("/v1/router", json={"capacity_factor": 0.5}).status_code == 422
    assert http.put("/v1/router", json={}).status_code == 422


def test_load_snapshots_add_up(http: httpx.Client, eventually: Any) -> None:
    recommend(http, history=["i1"], k=5)
    eventually(
        lambda: any(s["answered"] for s in http.get("/v1/experts?window_s=5").json()["snapshots"]), what="a snapshot"
    )
    for snapshot in http.get("/v1/experts?window_s=5").json()["snapshots"]:
        for layer in snapshot["layers"]:
            assert sum(layer["served"]) + layer["dropped"] == sum(layer["demand"]) == snapshot["tokens"] * 2
    assert http.get("/v1/experts?window_s=0").status_code == 422
    assert http.get("/v1/models").json()["models"][0]["model_version"] == "tiny"


def test_popular_follows_events(http: httpx.Client, eventually: Any) -> None:
    events = [{"user_id": f"pop-{n}", "item_id": "i77", "kind": "purchase"} for n in range(30)]
    http.post("/v1/events", json={"events": events})
    eventually(
        lambda: (http.get("/v1/popular?window=1h&k=1").json()["items"] or [{}])[0].get("item_id") == "i77",
        what="the popular item on top",
    )
    assert http.get("/v1/popular?window=2h").status_code == 422


def test_metrics_are_prometheus_text(http: httpx.Client) -> None:
    recommend(http, history=["i1"])
    text = http.get("/metrics").text
    assert 'recsys_api_requests_total{route="/v1/recommendations",status="200"}' in text
    assert "recsys_api_latency_seconds_bucket" in text


def test_the_documented_openapi_covers_every_call(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert set(document["paths"]) >= {
        "/v1/recommendations", "/v1/events", "/v1/items/{item_id}", "/v1/users/{user_id}", "/v1/popular",
        "/v1/items/{item_id}/similar", "/v1/experts", "/v1/router", "/v1/models", "/healthz", "/readyz",
    }  # fmt: skip
    assert http.get("/docs").status_code == 200


def test_xadd_with_redis_cli(service: Any, http: httpx.Client, eventually: Any) -> None:
    command = ["redis-cli", "-u", service.redis.url, "XADD", "recsys:events", "*", "type", "interaction"]
    command += ["user_id", "story-cli", "item_id", "i9", "kind", "like"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=10)
    except FileNotFoundError:
        pytest.skip("no redis-cli")
    eventually(lambda: http.get("/v1/users/story-cli").status_code == 200, what="the event to be applied")


def test_a_worker_stops_cleanly_when_told(service: Any) -> None:
    assert service.terminate("worker") == 0
    service.start("worker")


def test_the_command_line_lists_its_parts() -> None:
    run = subprocess.run([sys.executable, "-m", "recsys.cli", "--help"], capture_output=True, text=True, check=True)
    for name in ("demo", "serve", "import", "world", "train", "evaluate", "replay", "dead-letters"):
        assert name in run.stdout
