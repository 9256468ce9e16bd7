"""Which users an expert works for: from recent users, with their kinds, and nobody named."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from redis.exceptions import RedisError

from recsys.api import expert_users, kept_answer
from recsys.api.expert_users import NEW, Served, kind_of, recent_users, shares, summed
from recsys.api.kept_answer import KeptAnswer
from recsys.api.query import Query
from recsys.api.recommend import Known
from recsys.config import Settings
from recsys.wire import ExpertUse


def test_recent_users_of_the_real_service(service: Any, eventually: Any) -> None:
    with httpx.Client(base_url=service.base, timeout=20, headers={"X-Deadline-Ms": "5000"}) as http:
        events = [{"user_id": f"fan-{n}", "item_id": f"i{n}", "kind": "like"} for n in range(6)]
        assert http.post("/v1/events", json={"events": events}).status_code == 202
        eventually(lambda: http.get("/v1/users/fan-5").status_code == 200, what="the likes are applied")
        for n in range(6):
            assert http.post("/v1/recommendations", json={"user_id": f"fan-{n}", "k": 5}).status_code == 200
        answer = http.get("/v1/experts/users")
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert 1 <= told["answered"] <= told["asked"]
        for layer in told["layers"]:
            assert sum(layer["share"]) == pytest.approx(1.0)
            assert sum(layer["leads"]) == told["answered"]
            assert sum(kind["users"] for kind in layer["kinds"]) <= told["answered"]
            assert all(sum(kind["share"]) == pytest.approx(1.0) for kind in layer["kinds"])
        assert "fan-" not in answer.text
        assert http.get("/v1/experts/users").json() == told, "one sample for all who ask"


def test_users_are_put_together_by_kind() -> None:
    served = [
        Served("drama", {0: {0: 0.75, 1: 0.25}}),
        Served("drama", {0: {0: 0.25, 1: 0.75}}),
        Served(NEW, {0: {2: 1.0}, 1: {1: 1.0}}),
    ]
    told = summed(served, asked=5)
    assert (told.asked, told.answered) == (5, 3)
    first, second = told.layers
    assert first.share == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert first.leads == [1, 1, 1]
    assert [(kind.kind, kind.users, kind.share) for kind in first.kinds] == [
        ("drama", 2, [0.5, 0.5, 0.0]),
        (NEW, 1, [0.0, 0.0, 1.0]),
    ]
    assert second.share == [0.0, 1.0]
    assert [kind.kind for kind in second.kinds] == [NEW]


def test_what_kind_of_user() -> None:
    assert kind_of([("drama",), ("comedy", "drama"), ("comedy",)]) == "comedy"  # a draw: by name
    assert kind_of([("comedy", "drama"), ("drama",)]) == "drama"
    assert kind_of([(), ()]) == NEW


def test_shares_of_the_gate_weight() -> None:
    uses = [
        ExpertUse("a", 0, (0, 1), (0.9, 0.1)),
        ExpertUse("b", 0, (1, 2), (0.5, 0.5)),
        ExpertUse("a", 1, (3,), (0.0,)),
    ]
    assert shares(uses) == {0: pytest.approx({0: 0.45, 1: 0.3, 2: 0.25})}


def test_each_user_counts_once_and_onlookers_do_not() -> None:
    queries = [Query(user_id=f"u{n % 100}", k=n + 1) for n in range(200)] + [Query(user_id="v", explain=True)]
    sample = recent_users(queries)
    assert len({query.user_id for query in sample}) == len(sample) == expert_users.USERS_MAX
    assert min(query.k for query in sample) > 100, "the newest query of each"
    assert len(recent_users([Query(history=("i1",)), Query(history=("i1",))])) == 2, "who has no name is somebody new"
    assert recent_users([]) == []


def test_one_makes_it_and_all_get_it_also_a_failure_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        made = 0

        async def make() -> int:
            nonlocal made
            made += 1
            await asyncio.sleep(0)
            if made == 1:
                raise ValueError("once")
            return made

        kept: KeptAnswer[int] = KeptAnswer(60.0)
        failures = await asyncio.gather(*(kept.get(make) for _ in range(5)), return_exceptions=True)
        assert [str(failure) for failure in failures] == ["once"] * 5
        monkeypatch.setattr(kept_answer, "FAILURE_S", -1.0)
        assert await asyncio.gather(*(kept.get(make) for _ in range(5))) == [2] * 5
        stale: KeptAnswer[int] = KeptAnswer(-1.0)
        assert [await stale.get(make), await stale.get(make)] == [3, 4]

    asyncio.run(run())


@pytest.mark.parametrize("error", [RedisError("away"), TimeoutError()])
def test_a_user_whose_items_cannot_be_read_is_left_out(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def user_state(*_: Any) -> Known:
        return Known(history=("i1",))

    async def ask_engine(*_: Any) -> Any:
        return SimpleNamespace(experts=[ExpertUse("a", 0, (0,), (1.0,))])

    async def get(item_ids: Any, *, within_s: float) -> Any:
        assert item_ids == ("i1",)
        assert 0 < within_s <= 3
        raise error

    monkeypatch.setattr(expert_users, "user_state", user_state)
    monkeypatch.setattr(expert_users, "ask_engine", ask_engine)
    res: Any = SimpleNamespace(settings=Settings(), items=SimpleNamespace(get=get))
    assert asyncio.run(expert_users._served(Query(user_id="u"), time.perf_counter() + 3, res)) is None
