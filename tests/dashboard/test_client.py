"""Calls that succeed, and what each failure says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from dashboard.client import Client, RefusedError, UnexpectedAnswerError, UnreachableError


def test_reads_load_and_policy(served: Any) -> None:
    client = Client(served.url)
    experts = client.experts(window_s=10)
    assert experts.engines == ["engine-0"]
    assert len(experts.snapshots[-1].layers) == 2
    assert client.router().policy == "price"


def test_switches_the_policy_with_the_right_key_only(served: Any) -> None:
    client = Client(served.url)
    with pytest.raises(RefusedError) as refused:
        client.set_router(policy="topk", capacity_factor=1.5, key="not-it")
    assert refused.value.wrong_key
    with pytest.raises(RefusedError, match="ASCII"):
        client.set_router(policy="topk", capacity_factor=1.5, key="schlüssel\n")
    assert served.fake.policy == "price"
    assert client.set_router(policy="topk", capacity_factor=1.5, key="a-key-for-tests").policy == "topk"


def test_events_users_and_lists(served: Any) -> None:
    client = Client(served.url)
    assert client.user("nobody/../at all") is None
    assert client.send_event({"user_id": "new", "item_id": "i4", "kind": "like"}).accepted == 1
    user = client.user("new")
    assert user is not None
    assert user.history[0].title == served.fake.items["i4"]["title"]
    answer = client.recommend({"user_id": "new", "k": 3, "explain": True})
    assert [len(answer.items), answer.cold_start] == [3, False]
    assert answer.explain


def test_a_wrong_request_names_its_field(served: Any) -> None:
    with pytest.raises(RefusedError) as refused:
        Client(served.url).recommend({"k": 0})
    assert refused.value.status == 422


def test_nobody_there(served: Any) -> None:
    served.stop()
    with pytest.raises(UnreachableError, match="No answer from"):
        Client(served.url).router()


def test_silence_ends_by_time_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(UnreachableError, match="timed out"):
        Client(f"http://127.0.0.1:{mute.getsockname()[1]}", timeout_s=0.2).router()


@pytest.fixture
def stranger() -> Iterator[str]:
    """A server that is not this service."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = (503, b"<h1>down</h1>") if "experts" not in self.path else (200, b'{"hello": 1}')
            self.send_response(status)
            self.send_header("Retry-After", "7")
            cut_off = 50 if self.path == "/v1/models" else 0
            self.send_header("Content-Length", str(len(body) + cut_off))
            self.end_headers()
            self.wfile.write(body)
            if cut_off:
                time.sleep(0.6)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_service(stranger: str) -> None:
    with pytest.raises(UnexpectedAnswerError, match=r"/v1/experts is not what this board knows.*engines"):
        Client(stranger).experts(window_s=1)
    with pytest.raises(RefusedError, match="down") as refused:
        Client(stranger).router()
    assert (refused.value.status, refused.value.retry_after_s) == (503, 7.0)


def test_a_refusal_that_never_ends_is_a_failure_like_any_other(stranger: str) -> None:
    with pytest.raises(UnreachableError, match="No answer from"):
        Client(stranger, timeout_s=0.2).models()


def test_the_base_url_is_checked() -> None:
    with pytest.raises(ValueError, match="base_url: must start with http"):
        Client("localhost:8000")
