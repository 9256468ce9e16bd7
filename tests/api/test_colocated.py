"""API and engine in one process: the answers of two, and no caller left hanging whatever happens to the engine."""

from __future__ import annotations

import asyncio
import shutil
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from recsys import colocated
from recsys.api.engine_client import EngineLostError
from recsys.colocated import ColocatedEngine
from recsys.config import EngineSettings, RedisSettings, Settings
from recsys.engine.engine import Engine, MicroBatch
from recsys.errors import OverloadedError
from recsys.state.items import CatalogueItem
from recsys.wire import RankReply, RankRequest


def question(n: int = 0, **fields: Any) -> RankRequest:
    return RankRequest(**{"id": f"q{n}", "time_left_ms": 10_000, "k": 3, "history": (f"i{n % 5}",), **fields})


@pytest.fixture
def drive(tiny_model: Path, tmp_path: Path, redis_url: str) -> Callable[..., Any]:
    """Runs `act(inside, engine)` with a colocated engine of thirty items."""
    shutil.copytree(tiny_model, tmp_path / "tiny")
    config = EngineSettings(model_dir=tmp_path / "tiny", batch_max=4, wait_max_ms=5_000)
    settings = Settings(engine=config, redis=RedisSettings(url=redis_url, prefix=f"{tmp_path.name}:"))

    def run(act: Callable[[ColocatedEngine, Engine], Coroutine[Any, Any, Any]]) -> Any:
        async def all_of_it() -> Any:
            engine = Engine(settings)
            engine.set_catalogue({f"i{n}": CatalogueItem(item_id=f"i{n}", title="t", ts=0) for n in range(30)})
            inside = ColocatedEngine(engine, in_flight_max=8)
            await inside.start()
            try:
                return await act(inside, engine)
            finally:
                await inside.close()

        return asyncio.run(all_of_it())

    return run


@pytest.mark.parametrize("long_s", [0.0, 1e9], ids=["in a thread", "on the loop"])
def test_every_question_gets_its_own_answer(
    drive: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, long_s: float
) -> None:
    monkeypatch.setattr(colocated, "LONG_STEP_S", long_s)

    async def act(inside: ColocatedEngine, engine: Engine) -> list[RankReply]:
        asked = [inside.ask(question(n), timeout_s=20) for n in range(8)]
        found = await asyncio.gather(*asked)
        assert inside.in_flight == 0
        return [*found, *[await inside.ask(question(n), timeout_s=20) for n in range(8)]]

    replies = drive(act)
    assert [reply.id for reply in replies] == 2 * [f"q{n}" for n in range(8)]
    assert {reply.status for reply in replies} == {"ok"}
    assert all(f"i{n % 5}" not in reply.item_ids for n, reply in enumerate(replies[:8]))
    assert max(reply.batch_requests for reply in replies[:8]) == 4, "questions of one turn share micro-batches"


@pytest.mark.parametrize("experiment", [{"lane_us": 1.0}, {"inject": {0: 1e-6}}], ids=["lanes", "an ill lane"])
def test_a_step_that_waits_for_lanes_does_not_hold_up_the_loop(
    drive: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, experiment: dict[str, Any]
) -> None:
    monkeypatch.setattr(colocated, "LONG_STEP_S", 1e9)

    async def act(inside: ColocatedEngine, engine: Engine) -> list[str]:
        compute, threads = engine.compute, list[str]()

        def where(batch: MicroBatch) -> Any:
            threads.append(threading.current_thread().name)
            return compute(batch)

        monkeypatch.setattr(engine, "compute", where)
        await inside.ask(question(), timeout_s=20)
        engine._served.lanes.follow({}, experiment.get("inject", {}), experiment.get("lane_us", 0.0) / 1e6)
        await inside.ask(question(), timeout_s=20)
        return threads

    on_loop, in_thread = drive(act)
    assert on_loop == threading.main_thread().name
    assert in_thread.startswith("long-step")


def test_what_cannot_be_ranked_is_told_at_once(drive: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(inside: ColocatedEngine, engine: Engine) -> None:
        assert (await inside.ask(question(policy="none such"), timeout_s=5)).status == "invalid"
        assert (await inside.ask(question(time_left_ms=0), timeout_s=5)).status == "expired"
        waiting = [asyncio.ensure_future(inside.ask(question(n), timeout_s=20)) for n in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="8 requests"):
            await inside.ask(question(9), timeout_s=5)
        assert {reply.status for reply in await asyncio.gather(*waiting)} == {"ok"}

        def broken(*_: Any) -> Any:
            raise RuntimeError("no luck")

        monkeypatch.setattr(engine, "_run", broken)
        failed = await inside.ask(question(), timeout_s=5)
        assert (failed.status, failed.error) == ("failed", "RuntimeError: no luck")
        monkeypatch.undo()
        assert (await inside.ask(question(), timeout_s=20)).status == "ok"

    drive(act)


def test_closing_leaves_no_question_open(drive: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(inside: ColocatedEngine, engine: Engine) -> None:
        monkeypatch.setattr(engine, "take", lambda now_s: (None, []))  # nothing is ever computed
        asked = asyncio.ensure_future(inside.ask(question(), timeout_s=20))
        await asyncio.sleep(0)
        await inside.close()
        with pytest.raises(EngineLostError, match="stopping"):
            await asked
        assert not inside.alive

    drive(act)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, start_service: Any) -> Iterator[Any]:
    """Redis, worker, and one process that is API and engine."""
    with start_service(tmp_path_factory.mktemp("together"), 0) as running:
        yield running


def ask(service: Any, **body: Any) -> Any:
    answer = httpx.post(
        f"{service.base}/v1/recommendations", json={"k": 10, **body}, headers={"X-Deadline-Ms": "5000"}, timeout=20
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.e2e
def test_it_answers_what_two_processes_answer(together: Any, service: Any) -> None:
    for history in ([], ["i1"], ["i3", "i7", "i9"]):
        one, two = ask(together, history=history), ask(service, history=history)
        assert [item["item_id"] for item in one["items"]] == [item["item_id"] for item in two["items"]]
        assert one["model_version"] == two["model_version"]
        assert one["fallback"] is None


@pytest.mark.e2e
def test_an_event_changes_its_next_answer_and_the_policy_is_followed(together: Any, eventually: Any) -> None:
    before = ask(together, user_id="newcomer")
    liked = before["items"][0]["item_id"]
    event = {"user_id": "newcomer", "item_id": liked, "kind": "like"}
    assert httpx.post(f"{together.base}/v1/events", json=event).status_code == 202
    eventually(lambda: liked not in [item["item_id"] for item in ask(together, user_id="newcomer")["items"]])
    put = httpx.put(f"{together.base}/v1/router", json={"policy": "topk"}, headers=together.admin)
    assert put.status_code == 200
    eventually(lambda: ask(together, history=["i1"])["policy"] == "topk")
    metrics = httpx.get(f"{together.base}/metrics").text
    assert 'recsys_engine_requests_total{outcome="answered"}' in metrics
    assert "recsys_api_engines_ready 1.0" in metrics


@pytest.mark.e2e
def test_it_answers_without_redis_and_ends_when_told(together: Any, eventually: Any) -> None:
    together.redis.kill()
    assert ask(together, history=["i1"])["fallback"] is None, "the engine needs no Redis"
    together.redis.start()
    eventually(together.ready)
    assert together.terminate("colocated") in (0, -signal.SIGTERM)  # uvicorn ends by the signal that it was told
