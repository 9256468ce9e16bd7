"""Engine, Redis and API lose their lives in mid-flight; every caller still gets an answer, in time."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.e2e

DEADLINE_S = 2.0


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory, start_service: Any) -> Iterator[Any]:
    """A service of this module's own, to break."""
    with start_service(tmp_path_factory.mktemp("fragile")) as running:
        yield running


async def ask_many(base: str, count: int, disturb: Any, *, at: int) -> list[tuple[int, str | None]]:
    """`count` concurrent questions; `disturb` happens when the `at`-th answer is back. (status, fallback) of each.

    A caller left hanging fails the test by the client's time-out.
    """
    answers: list[tuple[int, str | None]] = []
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=base, timeout=20, limits=limits) as http:
        gate = asyncio.Semaphore(64)

        async def one(n: int) -> None:
            async with gate:
                body = {"history": [f"i{n % 150}"], "k": 5}
                headers = {"X-Deadline-Ms": str(DEADLINE_S * 1e3)}
                answer = await http.post("/v1/recommendations", json=body, headers=headers)
                found = answer.json()
                answers.append((answer.status_code, found.get("fallback") or found.get("detail")))
                if len(answers) == at:
                    disturb()

        await asyncio.gather(*(one(n) for n in range(count)))
    return answers


def check(answers: list[tuple[int, str | None]], count: int) -> Counter[int]:
    statuses = Counter(status for status, _ in answers)
    assert len(answers) == count
    assert set(statuses) <= {200, 503}, statuses
    return statuses


def test_killing_the_engine_in_mid_flight_leaves_no_caller_hanging(fragile: Any, eventually: Any) -> None:
    fragile.wait_ready()
    answers = asyncio.run(ask_many(fragile.base, 300, lambda: fragile.kill("engine"), at=100))
    check(answers, 300)
    assert any(fallback for _, fallback in answers)
    assert not all(fallback for _, fallback in answers)
    alone = httpx.post(f"{fragile.base}/v1/recommendations", json={"history": ["i1"], "k": 5})
    assert alone.status_code == 200
    assert "no engine" in alone.json()["fallback"]
    assert len(alone.json()["items"]) == 5
    ready = httpx.get(f"{fragile.base}/readyz")
    assert (ready.status_code, ready.json()["engine"], ready.json()["redis"]) == (503, False, True)
    fragile.start("engine")
    fragile.wait_ready()
    back = httpx.post(f"{fragile.base}/v1/recommendations", json={"history": ["i1"], "k": 5}).json()
    assert back["fallback"] is None


def test_a_hanging_engine_costs_the_deadline_and_no_more(fragile: Any) -> None:
    fragile.wait_ready()
    pid = fragile.pid("engine")
    answers = asyncio.run(ask_many(fragile.base, 200, lambda: os.kill(pid, signal.SIGSTOP), at=50))
    os.kill(pid, signal.SIGCONT)
    check(answers, 200)
    assert any(fallback and ("in time" in fallback or "hangs" in fallback) for _, fallback in answers)
    fragile.wait_ready()


def test_what_waited_for_a_process_that_stood_still_is_told_at_once_that_it_is_late(fragile: Any) -> None:
    fragile.wait_ready()
    pid = fragile.pid("api")
    os.kill(pid, signal.SIGSTOP)
    try:
        with socket.create_connection(("127.0.0.1", fragile.port), timeout=20) as caller:
            body = b'{"history": ["i1"], "k": 5}'
            head = b"POST /v1/recommendations HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            caller.sendall(head + b"X-Deadline-Ms: 300\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            time.sleep(0.6)  # longer than the deadline
            os.kill(pid, signal.SIGCONT)
            assert caller.recv(64).startswith(b"HTTP/1.1 503")
    finally:
        os.kill(pid, signal.SIGCONT)


def test_without_redis_answers_go_on_and_it_comes_back_by_itself(fragile: Any) -> None:
    fragile.wait_ready()
    answers = asyncio.run(ask_many(fragile.base, 200, fragile.redis.kill, at=50))
    assert check(answers, 200)[200]
    assert all("expected wait" in (why or "") for status, why in answers if status == 503), (
        "the crowd alone is a reason"
    )
    with httpx.Client(base_url=fragile.base, timeout=10) as http:
        personal = http.post("/v1/recommendations", json={"user_id": "u1", "k": 5})
        assert personal.status_code == 200
        assert "not personal" in personal.json()["fallback"]
        assert len(personal.json()["items"]) == 5
        refused = http.post("/v1/events", json={"user_id": "u1", "item_id": "i1", "kind": "like"})
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.headers["content-type"] == "application/problem+json"
        assert http.get("/healthz").status_code == 200
        assert http.get("/readyz").status_code == 503
    fragile.redis.start()
    fragile.wait_ready()


def test_an_engine_told_to_stop_answers_what_it_has_and_leaves(fragile: Any) -> None:
    fragile.wait_ready()
    code: list[int] = []
    answers = asyncio.run(ask_many(fragile.base, 200, lambda: code.append(fragile.terminate("engine")), at=50))
    assert code == [0]
    check(answers, 200)
    fragile.start("engine")
    fragile.wait_ready()


def test_a_killed_api_comes_back_with_nothing_lost(fragile: Any) -> None:
    fragile.wait_ready()
    event = {"user_id": "u-api-kill", "item_id": "i1", "kind": "like", "event_id": "api-kill-1"}
    assert httpx.post(f"{fragile.base}/v1/events", json=event).json()["accepted"] == 1
    fragile.kill("api")
    fragile.start("api")
    fragile.wait_ready()
    assert httpx.get(f"{fragile.base}/v1/users/u-api-kill").json()["counts"] == {"like": 1}


@pytest.mark.parametrize("what", ["missing", "truncated", "wrong policy"])
def test_an_engine_that_cannot_start_says_why_in_one_line(
    what: str, tmp_path: Path, tiny_model: Path, run_process: Any
) -> None:
    folder = tmp_path / "model"
    environment = {"RECSYS_ENGINE__MODEL_DIR": str(folder), "RECSYS_ENGINE__ENDPOINT": f"ipc://{tmp_path}/e.sock"}
    if what != "missing":
        folder.mkdir()
        for source in tiny_model.iterdir():
            (folder / source.name).write_bytes(source.read_bytes())
    if what == "truncated":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    if what == "wrong policy":
        environment["RECSYS_ROUTER__POLICY"] = "magic"
    code, output = run_process(["serve", "engine"], environment)
    assert code == 2
    assert "Traceback" not in output
    assert {"missing": "model", "truncated": "model.safetensors", "wrong policy": "magic"}[what] in output
