"""The recommend call against the real service."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pytest

JSON = dict[str, Any]


@pytest.fixture
def http(service: Any) -> Any:
    with httpx.Client(base_url=service.base, timeout=10) as client:
        yield client


def recommend(http: httpx.Client, **body: Any) -> JSON:
    answer = http.post("/v1/recommendations", json=body)
    assert answer.status_code == 200, answer.text
    found: JSON = answer.json()
    return found


def ids(answer: JSON) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_a_stranger_gets_a_cold_start_answer_that_says_so(http: httpx.Client) -> None:
    answer = recommend(http, user_id=f"stranger-{uuid.uuid4().hex}", k=7)
    assert answer["cold_start"] is True
    assert answer["fallback"] is None
    assert len(set(ids(answer))) == 7
    assert answer["model_version"] == "tiny"
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert all(item["title"] and set(item["goals"]) == {"click", "like"} for item in answer["items"])


def test_history_changes_the_answer_and_seen_items_are_left_out(http: httpx.Client) -> None:
    cold = recommend(http, history=[], k=20)
    warm = recommend(http, history=["i3", "i4", "i5"], k=20)
    assert warm["cold_start"] is False
    assert ids(cold) != ids(warm)
    assert not {"i3", "i4", "i5"} & set(ids(warm))
    seen = recommend(http, history=["i3", "i4", "i5"], k=200, exclude_seen=False)
    assert {"i3", "i4", "i5"} <= set(ids(seen))


def test_k_beyond_the_catalogue_gives_the_whole_catalogue_once(http: httpx.Client) -> None:
    assert sorted(ids(recommend(http, history=[], k=200))) == sorted(f"i{n}" for n in range(150))


def test_filters_candidates_and_exclusions_hold(http: httpx.Client) -> None:
    everything = recommend(http, history=[], k=200)["items"]
    category = everything[0]["categories"][0]
    only = recommend(http, history=[], k=200, filters={"categories_any": [category]})["items"]
    assert only
    assert all(category in item["categories"] for item in only)
    without = recommend(http, history=[], k=200, filters={"categories_none": [category]})["items"]
    assert len(only) + len(without) == 150
    assert set(ids(recommend(http, history=[], k=10, candidates=["i1", "i2", "nope"]))) == {"i1", "i2"}
    assert ids(recommend(http, history=[], k=10, candidates=[])) == []
    assert "i1" not in ids(recommend(http, history=[], k=200, exclude_items=["i1"]))
    assert ids(recommend(http, history=[], k=5, filters={"year_min": 9000})) == []


def test_goal_weights_change_the_order(http: httpx.Client) -> None:
    click = recommend(http, history=["i1"], k=50)
    like = recommend(http, history=["i1"], k=50, goals={"like": 1})
    assert ids(click) != ids(like)
    by_like = sorted(like["items"], key=lambda item: -item["goals"]["like"])
    assert [item["item_id"] for item in by_like] == ids(like)


def test_diversity_keeps_the_best_item_first(http: httpx.Client) -> None:
    plain, varied = (recommend(http, history=["i1"], k=10, diversity=d) for d in (0.0, 0.9))
    assert ids(plain)[0] == ids(varied)[0]
    assert ids(plain) != ids(varied)


def test_explain_names_experts_whose_gates_sum_to_one(http: httpx.Client) -> None:
    answer = recommend(http, history=["i1"], k=3, explain=True)
    uses = answer["explain"]
    assert {use["item_id"] for use in uses} == set(ids(answer))
    assert {use["layer"] for use in uses} == {0, 1}
    for use in uses:
        assert len(set(use["experts"])) == len(use["experts"]) <= 2
        assert sum(use["gates"]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "user_id"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "x" * 200}, "user_id"),
        ({"user_id": "a\u0000b"}, "user_id"),
        ({"user_id": "u", "k": 0}, "k"),
        ({"user_id": "u", "k": 201}, "k"),
        ({"user_id": "u", "k": "many"}, "k"),
        ({"user_id": "u", "kk": 3}, "kk"),
        ({"user_id": "u", "diversity": 1.5}, "diversity"),
        ({"user_id": "u", "goals": {"love": 1}}, "goals"),
        ({"user_id": "u", "goals": {"click": 0}}, "goals"),
        ({"user_id": "u", "candidates": ["x"] * 2001}, "candidates"),
        ({"history": ["x"] * 501}, "history"),
        ({"user_id": "u", "filters": {"category": "x"}}, "filters.category"),
        ({"user_id": "u", "priority": "urgent"}, "priority"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_wrong_request_is_told_which_field(http: httpx.Client, body: JSON, field: str) -> None:
    answer = http.post("/v1/recommendations", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["field"] == field
    assert field.split(".")[-1] in answer.json()["detail"]


@pytest.mark.parametrize(
    "raw", ['{"user_id": "u", "diversity": NaN}', '{"user_id": "u", "goals": {"click": Infinity}}']
)
def test_numbers_that_are_none_are_refused(http: httpx.Client, raw: str) -> None:
    answer = http.post("/v1/recommendations", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_broken_json_and_a_body_over_the_limit(http: httpx.Client) -> None:
    broken = http.post("/v1/recommendations", content="{", headers={"content-type": "application/json"})
    assert (broken.status_code, broken.headers["content-type"]) == (422, "application/problem+json")
    long = http.post("/v1/recommendations", content=b" " * 300_000, headers={"content-type": "application/json"})
    assert (long.status_code, long.json()["field"]) == (413, "body")
    unannounced = http.post("/v1/recommendations", content=iter([b" " * 100_000] * 3))
    assert unannounced.status_code == 413


@pytest.mark.parametrize("deadline", ["0", "-5", "soon", "nan", "99999999"])
def test_a_deadline_must_make_sense(http: httpx.Client, deadline: str) -> None:
    answer = http.post("/v1/recommendations", json={"user_id": "u"}, headers={"X-Deadline-Ms": deadline})
    assert answer.status_code == 422
    assert answer.json()["field"] == "X-Deadline-Ms"


def test_unknown_paths_and_methods_are_problems_too(http: httpx.Client) -> None:
    for answer, status in ((http.get("/v1/nothing"), 404), (http.get("/v1/recommendations"), 405)):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
