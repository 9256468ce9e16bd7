"""The API over several engines: the shorter queue is asked, and one engine's death is nobody's failed answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import zmq.asyncio
from prometheus_client import Counter as Metric

from recsys.api.engine_client import EngineClient, EngineLostError
from recsys.api.engine_pool import EnginePool
from recsys.wire import BUNDLE_MAX, Ping, Pong, RankReply, RankRequest, bundles, decode_to_engine


class FakeEngine:
    """An engine that answers pings with a queue length, and questions by `reply`."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str, queue: int, reply: Callable[[RankRequest], Any]):
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(endpoint)
        self._queue = queue
        self._reply = reply
        self.asked: list[RankRequest] = []
        self.bundles: list[int] = []  # messages in each
        self.first = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            peer, frame = await self._socket.recv_multipart()
            answers: list[Any] = []
            messages, _ = decode_to_engine(frame)
            for message in messages:
                if isinstance(message, Ping):
                    answers.append(Pong(message.n, True, self._queue, "fake"))
                    continue
                assert isinstance(message, RankRequest)
                self.asked.append(message)
                self.first.set()
                answers.append(self._reply(message))
            self.bundles.append(len(messages))
            for bundle in bundles([answer for answer in reversed(answers) if answer is not None]):
                await self._socket.send_multipart([peer, bundle])

    def die(self) -> None:
        self.task.cancel()
        self._socket.close()


def ok(question: RankRequest) -> RankReply:
    return RankReply(id=question.id, status="ok")


def stopping(question: RankRequest) -> RankReply:
    return RankReply(id=question.id, status="refused", elsewhere=True, error="stopping")


async def with_engines(
    folder: Any, replies: list[Any], queues: list[int], act: Callable[..., Any], in_flight_max: int = 8
) -> Any:
    """`act(pool, engines)` with a connected pool of fake engines."""
    context = zmq.asyncio.Context()
    endpoints = [f"ipc://{folder}/f{n}.sock" for n in range(len(replies))]
    engines = [FakeEngine(context, e, q, r) for e, q, r in zip(endpoints, queues, replies, strict=True)]
    clients = [EngineClient(endpoint, in_flight_max=in_flight_max) for endpoint in endpoints]
    pool = EnginePool(clients, in_flight_max=in_flight_max, retries=Metric("retries", "", registry=None))
    await pool.start()
    try:
        deadline = time.monotonic() + 10
        while pool.ready_engines < len(engines):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        return await act(pool, engines)
    finally:
        await pool.close()
        for engine in engines:
            engine.die()
        context.destroy(linger=0)


def question(time_left_ms: float = 2_000) -> RankRequest:
    return RankRequest(id="q", time_left_ms=time_left_ms, k=1)


def test_the_shorter_queue_is_asked(tmp_path: Any) -> None:
    async def act(pool: EnginePool, engines: list[FakeEngine]) -> None:
        for _ in range(10):
            assert (await pool.ask(question(), timeout_s=2)).status == "ok"
        assert [len(engine.asked) for engine in engines] == [0, 10]

    asyncio.run(with_engines(tmp_path, [ok, ok], [5, 0], act))


def test_what_is_asked_in_one_turn_leaves_together_and_everybody_gets_the_own_answer(tmp_path: Any) -> None:
    count = BUNDLE_MAX + 6

    async def act(pool: EnginePool, engines: list[FakeEngine]) -> None:
        asked = [RankRequest(id=str(n), time_left_ms=2_000, k=1) for n in range(count)]
        replies = await asyncio.gather(*(pool.ask(one, timeout_s=10) for one in asked))
        assert [reply.id for reply in replies] == [one.id for one in asked]
        assert [one.id for one in engines[0].asked] == [one.id for one in asked]
        assert sum(size > 1 for size in engines[0].bundles) == 2
        assert pool.in_flight == 0

    asyncio.run(with_engines(tmp_path, [ok], [0], act, in_flight_max=count))


def test_an_engine_that_stops_sends_callers_to_another_one(tmp_path: Any) -> None:
    async def act(pool: EnginePool, engines: list[FakeEngine]) -> None:
        assert (await pool.ask(question(), timeout_s=2)).status == "ok"
        assert [len(engine.asked) for engine in engines] == [1, 1]

    asyncio.run(with_engines(tmp_path, [stopping, ok], [0, 5], act))


def test_all_engines_stopping_is_a_refusal(tmp_path: Any) -> None:
    async def act(pool: EnginePool, engines: list[FakeEngine]) -> None:
        assert (await pool.ask(question(), timeout_s=2)).status == "refused"

    asyncio.run(with_engines(tmp_path, [stopping, stopping], [0, 0], act))


def test_a_lost_question_goes_to_another_engine_with_the_time_that_is_left(tmp_path: Any) -> None:
    async def act(pool: EnginePool, engines: list[FakeEngine]) -> None:
        asking = asyncio.create_task(pool.ask(question(), timeout_s=2))
        await engines[0].first.wait()
        engines[0].die()
        assert (await asking).status == "ok"
        assert len(engines[1].asked) == 1
        assert 0 < engines[1].asked[0].time_left_ms < 2_000

    asyncio.run(with_engines(tmp_path, [lambda _: None, ok], [0, 5], act))


def test_a_question_out_of_time_is_not_asked_again(tmp_path: Any) -> None:
    async def act(pool: EnginePool, engines: list[FakeEngine]) -> None:
        with pytest.raises(EngineLostError, match="in time"):
            await pool.ask(question(50), timeout_s=0.05)
        assert len(engines[1].asked) == 0

    asyncio.run(with_engines(tmp_path, [lambda _: None, ok], [0, 5], act))


@pytest.mark.e2e
def test_killing_one_of_two_engines_under_load_costs_no_answer(
    tmp_path_factory: Any, start_service: Any, eventually: Any
) -> None:
    # A crowd for the engine that is left, on a busy machine: a refusal would be no answer lost.
    patient = {"RECSYS_ENGINE__WAIT_MAX_MS": "5000", "RECSYS_API__DEADLINE_MS": "5000"}
    with start_service(tmp_path_factory.mktemp("two"), 2, **patient) as two:

        def engines_ready(count: int) -> bool:
            return f"recsys_api_engines_ready {count:.1f}" in httpx.get(f"{two.base}/metrics").text

        eventually(lambda: engines_ready(2), within_s=60, what="two engines")
        answers = asyncio.run(_ask(two.base, 400, lambda: two.kill("engine"), at=100))
        assert Counter(answers) == {(200, None): 400}
        eventually(lambda: engines_ready(1), what="one engine")
        two.start("engine")
        eventually(lambda: engines_ready(2), within_s=60, what="the engine back")
        two.kill("engine-2")
        assert set(asyncio.run(_ask(two.base, 50, lambda: None, at=1))) == {(200, None)}


async def _ask(base: str, count: int, disturb: Callable[[], None], *, at: int) -> list[tuple[int, str | None]]:
    """(status, fallback) of `count` questions, 64 at a time; `disturb` happens when the `at`-th is answered."""
    answers: list[tuple[int, str | None]] = []
    async with httpx.AsyncClient(base_url=base, timeout=20, limits=httpx.Limits(max_connections=64)) as http:
        gate = asyncio.Semaphore(64)

        async def one(n: int) -> None:
            async with gate:
                body = {"history": [f"i{n % 150}"], "k": 5}
                answer = await http.post("/v1/recommendations", json=body, headers={"X-Deadline-Ms": "5000"})
                found = answer.json()
                answers.append((answer.status_code, found.get("fallback") or found.get("detail")))
                if len(answers) == at:
                    disturb()

        await asyncio.gather(*(one(n) for n in range(count)))
    return answers
