"""Popular items in place of the model's answer: only where the caller wants them, and always marked."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, start_service: Any) -> Iterator[Any]:
    """A service whose API has room for one question to the engine."""
    with start_service(tmp_path_factory.mktemp("narrow"), RECSYS_API__IN_FLIGHT_MAX="1") as running:
        yield running


def ask(base: str, deadline_ms: int = 10_000, **body: Any) -> httpx.Response:
    headers = {"X-Deadline-Ms": str(deadline_ms)}
    return httpx.post(
        f"{base}/v1/recommendations", json={"history": ["i1"], "k": 4, **body}, headers=headers, timeout=20
    )


def test_overload_is_answered_from_popular_items_only_if_asked_for(narrow: Any, eventually: Any) -> None:
    engine = narrow.pid("engine")
    os.kill(engine, signal.SIGSTOP)
    try:
        waiting = threading.Thread(target=ask, args=(narrow.base, 3_000))
        waiting.start()
        eventually(
            lambda: "recsys_api_engine_in_flight 1.0" in httpx.get(f"{narrow.base}/metrics").text, what="a full API"
        )
        refused = {wish: ask(narrow.base, fallback=wish) for wish in ("auto", "never")}
        instead = ask(narrow.base, fallback="always")
    finally:
        os.kill(engine, signal.SIGCONT)
    waiting.join()
    for answer in refused.values():
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.headers["content-type"] == "application/problem+json"
    assert instead.status_code == 200
    found = instead.json()
    assert "waiting for the engine" in found["fallback"]
    assert found["degraded"]["step"] == "shed"
    assert len(found["items"]) == 4


def test_without_an_engine_never_means_503(narrow: Any, eventually: Any) -> None:
    narrow.wait_ready()
    assert ask(narrow.base, fallback="never").json()["fallback"] is None
    narrow.kill("engine")
    for wish in ("auto", "always"):
        answer = ask(narrow.base, fallback=wish)
        assert (answer.status_code, "popular" in answer.json()["fallback"]) == (200, True)
    refused = ask(narrow.base, fallback="never")
    assert (refused.status_code, refused.json()["detail"]) == (503, "no engine")
    assert int(refused.headers["Retry-After"]) >= 1
    odd = httpx.post(  # pydantic's way says the same
        f"{narrow.base}/v1/recommendations", json={"user_id": "u", "k": "3", "fallback": "never"}, timeout=10
    )
    assert odd.status_code == 503
    assert ask(narrow.base, fallback="perhaps").json()["field"] == "fallback"


def test_without_redis_never_means_503_for_a_user_by_name(narrow: Any) -> None:
    narrow.start("engine")
    narrow.wait_ready()
    narrow.redis.kill()
    answer = ask(narrow.base, history=None, user_id="u1", fallback="never")
    assert (answer.status_code, "not personal" in answer.json()["detail"]) == (503, True)
    assert ask(narrow.base, fallback="never").status_code == 200  # its history came with the request
