"""One query under two policies against the real service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from recsys.api import compare
from recsys.api.router_schemas import RoutedAnswer
from recsys.api.schemas import Degraded, RecommendedItem, Timing

QUERY = {"history": ["i3", "i4", "i5"], "k": 20}


@pytest.fixture
def http(service: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.base, timeout=10, headers={"X-Deadline-Ms": "5000"}) as client:
        yield client


def ask(http: httpx.Client, *policies: str, **query: Any) -> dict[str, Any]:
    answer = http.post("/v1/router/compare", json={"query": {**QUERY, **query}, "policies": policies})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_a_policy_agrees_with_itself_and_with_a_plain_query(http: httpx.Client) -> None:
    told = ask(http, "topk", "topk")
    assert (told["first"]["policy"], told["second"]["policy"]) == ("topk", "topk")
    assert ids(told["first"]) == ids(told["second"])
    difference = told["difference"]
    assert (difference["came"], difference["went"], difference["moved"], difference["overlap"]) == ([], [], [], 1.0)
    assert difference["score_kept"] == 0
    assert all(item["title"] for item in told["first"]["items"])
    assert told["first"]["timing"]["compute_ms"] > 0


def test_a_policy_blind_to_scores_answers_otherwise_and_the_difference_says_how(http: httpx.Client) -> None:
    told = ask(http, "topk", "hash", explain=True)
    first, second, difference = ids(told["first"]), ids(told["second"]), told["difference"]
    assert first != second
    assert set(difference["came"]) == set(second) - set(first)
    assert set(difference["went"]) == set(first) - set(second)
    for moved in difference["moved"]:
        assert first[moved["first_rank"] - 1] == second[moved["second_rank"] - 1] == moved["item_id"]
    kept = told["second"]["degraded"]["score_kept"] - told["first"]["degraded"]["score_kept"]
    assert difference["score_kept"] == pytest.approx(kept)
    assert difference["score_kept"] < 0
    assert {use["item_id"] for use in told["second"]["explain"]} == set(second)


def test_the_live_policy_stays_what_it_is(http: httpx.Client) -> None:
    before = http.get("/v1/router").json()["policy"]
    ask(http, "hash", "p2c")
    assert http.get("/v1/router").json()["policy"] == before


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"query": QUERY, "policies": ["topk", "fastest"]}, "policies"),
        ({"query": QUERY, "policies": ["topk"]}, "policies.1"),
        ({"query": QUERY, "policies": ["topk", ""]}, "policies.1"),
        ({"query": QUERY}, "policies"),
        ({"policies": ["topk", "price"]}, "query"),
        ({"query": {**QUERY, "k": 0}, "policies": ["topk", "price"]}, "query.k"),
        ({"query": {}, "policies": ["topk", "price"]}, "user_id"),
        ({"query": {**QUERY, "k": 201}, "policies": ["topk", "price"]}, "k"),
    ],
)
def test_a_wrong_request_names_its_field(http: httpx.Client, body: dict[str, Any], field: str) -> None:
    answer = http.post("/v1/router/compare", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["field"] == field


def test_without_an_engine_there_is_nothing_to_compare(tmp_path: Any, start_service: Any) -> None:
    with start_service(tmp_path) as own:
        own.kill("engine")
        answer = httpx.post(f"{own.base}/v1/router/compare", json={"query": QUERY, "policies": ["topk", "price"]})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "engine" in answer.json()["detail"]


def answered(*items: str, score_kept: float = 1.0, compute_ms: float = 1.0) -> RoutedAnswer:
    return RoutedAnswer(
        policy="p", model_version="m", items=[RecommendedItem(item_id=i, score=0.5) for i in items], cold_start=False,
        degraded=Degraded(score_kept=score_kept), timing=Timing(total_ms=1.0, compute_ms=compute_ms),
    )  # fmt: skip


def test_the_difference_of_two_lists() -> None:
    told = compare.difference(answered("a", "b", "c"), answered("b", "d", "c", score_kept=0.9, compute_ms=3.0))
    assert (told.came, told.went) == (["d"], ["a"])
    assert [(m.item_id, m.first_rank, m.second_rank) for m in told.moved] == [("b", 2, 1)]
    assert told.overlap == 0.5
    assert (told.score_kept, told.compute_ms) == (pytest.approx(-0.1), 2.0)
    assert compare.difference(answered(), answered()).overlap == 1.0
