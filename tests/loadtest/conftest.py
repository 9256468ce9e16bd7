"""A small stand-in for the service, and a world of three categories."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

CATEGORIES = ["comedy", "noir", "western"]
WORLD: dict[str, Any] = {
    "format": 1,
    "now_ms": 1_700_000_000_000,
    "categories": CATEGORIES,
    "items": [{"id": f"i{n}", "categories": [CATEGORIES[n % 3]], "weight": 0.3 / (n + 1)} for n in range(30)],
    "users": [
        {"id": f"u{n}", "activity": 1.0, "taste": {c: 0.9 if CATEGORIES[n % 3] == c else 0.05 for c in CATEGORIES}}
        for n in range(50)
    ],
}


class FakeApi:
    """Speaks the two calls; `status` and `stall_after` make it misbehave.

    Attributes:
        status: answered to recommendations.
        body: answered instead of a list, if set.
        stall_after: recommendations answered before it stops answering; None = never.
        key: of the last request.
        bodies: received requests, `(path, body)`.
    """

    def __init__(self) -> None:
        self.status = 200
        self.body: bytes | None = None
        self.stall_after: int | None = None
        self.key: str | None = None
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.release = threading.Event()
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_PUT(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                fake.key = self.headers.get("X-Api-Key")
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = fake.answer(self.path, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                if status == 503:
                    self.send_header("Retry-After", "1")
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that gave up

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        with self._lock:
            self.bodies.append((path, body))
            asked = sum(1 for p, _ in self.bodies if p == "/v1/recommendations")
        if path == "/v1/router":
            return (200, b"{}") if self.key == "a-key" else (401, b'{"title": "wrong key"}')
        if path == "/v1/events":
            n = len(body["events"])
            return 202, json.dumps({"accepted": n, "duplicates": 0, "rejected": [], "event_ids": ["e"] * n}).encode()
        if self.stall_after is not None and asked > self.stall_after:
            self.release.wait(30)
        if self.status != 200 or self.body is not None:
            return self.status, self.body or b'{"title": "no"}'
        items = [
            {"item_id": item["id"], "score": 1.0, "categories": item["categories"]}
            for item in WORLD["items"][: body["k"]]
        ]
        return 200, json.dumps(
            {
                "request_id": f"r{asked}",
                "items": items,
                "model_version": "m",
                "policy": "price",
                "degraded": {"step": "calm", "redirected": 0.0, "score_kept": 1.0},
                "cold_start": False,
                "timing": {"total_ms": 1.0},
            }
        ).encode()

    def of(self, path: str) -> list[dict[str, Any]]:
        """Bodies received at `path`."""
        with self._lock:
            return [body for p, body in self.bodies if p == path]

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def fake_api() -> Iterator[FakeApi]:
    api = FakeApi()
    yield api
    api.close()


@pytest.fixture
def tastes_file(tmp_path: Path) -> Path:
    path = tmp_path / "tastes.json"
    path.write_text(json.dumps(WORLD))
    return path


@pytest.fixture
def unused_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
