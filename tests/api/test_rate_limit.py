"""A caller beyond its rate is told when to come back, before its body is read; the others notice nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.api.rate_limit import TokenBuckets

gaps = st.lists(st.floats(0, 3), min_size=1, max_size=60)


@given(gaps=gaps, per_s=st.floats(0.5, 20), burst=st.floats(1, 10))
def test_no_more_than_the_burst_and_the_rate_gets_through(gaps: list[float], per_s: float, burst: float) -> None:
    buckets, now_s, taken_s = TokenBuckets(per_s, burst, 10), 0.0, []
    for gap in gaps:
        now_s += gap
        wait_s = buckets.take(b"a", now_s=now_s)
        if not wait_s:
            taken_s.append(now_s)
        assert 0 <= wait_s <= 1 / per_s + 1e-9
    for first, start_s in enumerate(taken_s):
        for last, end_s in enumerate(taken_s[first:], start=1):
            assert last <= burst + (end_s - start_s) * per_s + 1e-6


def test_who_comes_back_when_told_gets_through() -> None:
    buckets = TokenBuckets(2.0, 1.0, 10)
    assert buckets.take(b"a", now_s=0) == 0
    wait_s = buckets.take(b"a", now_s=0.1)
    assert wait_s == pytest.approx(0.4)
    assert buckets.take(b"a", now_s=0.1 + wait_s) == pytest.approx(0, abs=1e-9)


def test_callers_have_buckets_of_their_own_and_the_table_is_bounded() -> None:
    buckets = TokenBuckets(0.001, 1.0, 100)
    for caller in range(5_000):
        assert buckets.take(b"%d" % caller, now_s=0) == 0
    assert len(buckets) == 100
    assert buckets.take(b"4999", now_s=0) > 0
    assert buckets.take(b"0", now_s=0) == 0  # forgotten, so unknown


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, start_service: Any) -> Iterator[Any]:
    """A service that lets each caller call five times and then hardly ever."""
    with start_service(
        tmp_path_factory.mktemp("limited"), RECSYS_API__RATE_PER_S="0.02", RECSYS_API__RATE_BURST="5"
    ) as running:
        yield running


def ask(limited: Any, headers: dict[str, str]) -> httpx.Response:
    body = {"history": ["i1"], "k": 3}
    return httpx.post(f"{limited.base}/v1/recommendations", json=body, headers=headers, timeout=10)


def test_one_caller_beyond_its_rate_gets_429_and_another_an_answer(limited: Any) -> None:
    one, two = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
    answers = [ask(limited, one) for _ in range(8)]
    assert [a.status_code for a in answers] == [200] * 5 + [429] * 3
    refused = answers[-1]
    assert refused.headers["content-type"] == "application/problem+json"
    assert 40 <= int(refused.headers["Retry-After"]) <= 50
    assert refused.json()["status"] == 429
    assert ask(limited, two).status_code == 200
    for path in ("healthz", "readyz", "metrics"):
        assert httpx.get(f"{limited.base}/{path}", headers=one).status_code == 200
    assert "recsys_api_rate_limited_total 3.0" in httpx.get(f"{limited.base}/metrics").text
    document = httpx.get(f"{limited.base}/openapi.json", headers=one).json()
    assert all(
        "429" in call["responses"]
        for path, calls in document["paths"].items()
        for call in calls.values()
        if path.startswith("/v1")
    )


@pytest.mark.parametrize("way", ["connection", "asgi"])
def test_a_new_key_per_call_is_no_new_caller(limited: Any, way: str) -> None:
    proxy = {} if way == "connection" else {"X-Forwarded-For": "192.0.2.4"}
    answers = [ask(limited, {"X-Api-Key": f"key-{n}", **proxy}) for n in range(8)]
    assert [a.status_code for a in answers] == [200] * 5 + [429] * 3
    assert ask(limited, proxy).status_code == 429


def test_the_admin_is_one_caller_wherever_it_calls_from(limited: Any) -> None:
    places = [{}, *({"X-Forwarded-For": f"192.0.2.{n}"} for n in range(10, 17))]
    assert [ask(limited, limited.admin | place).status_code for place in places] == [200] * 5 + [429] * 3
    assert ask(limited, {"X-Forwarded-For": "192.0.2.10"}).status_code == 200


def test_the_refusal_comes_before_the_body(limited: Any) -> None:
    head = (
        b"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.3\r\n"
        b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    )
    for _ in range(5):
        httpx.get(f"{limited.base}/v1/popular", headers={"X-Forwarded-For": "192.0.2.3"})
    with socket.create_connection(("127.0.0.1", limited.port), timeout=10) as line:
        line.sendall(head)
        assert line.recv(100).startswith(b"HTTP/1.1 429")
