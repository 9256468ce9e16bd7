"""Fixtures used by more than one folder of tests."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

# Before torch is imported anywhere: spinning threads on a busy machine turn milliseconds into seconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
import redis

from recsys.stack.redis_server import find_binary, server_command

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
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = server_command(find_binary(), folder, self.port)
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


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data set folder of a small synthetic world, with `tastes.json`."""
    from recsys.data.commands import make_world

    folder = tmp_path_factory.mktemp("world")
    make_world(folder, users=120, items=150, days=10, seed=3, now_ms=int(time.time() * 1e3))
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folder of the small world: random weights with gates that have opinions, so that routing has work."""
    import torch

    from recsys.data.dataset import Dataset
    from recsys.model.config import ModelConfig
    from recsys.model.recommender import Recommender
    from recsys.training.examples import build_vocabulary

    dataset = Dataset.load(tiny_world)
    vocabulary = build_vocabulary(dataset.interactions, dataset.items)
    torch.manual_seed(5)
    model = Recommender(ModelConfig(**vocabulary.sizes(), width=32, experts=8), vocabulary, version="tiny")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("gate.weight") or "heads" in name:
                weight.normal_(std=0.3)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model.save_pretrained(folder)
    return folder


class Service:
    """Real processes of the service around one Redis; each can be started, killed and started again."""

    def __init__(self, folder: Path, server: RedisServer, model: Path, engines: int = 1, **environment: str) -> None:
        self.folder = folder
        self.redis = server
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.admin = {"X-Api-Key": "test-key"}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.engines = {
            ("engine" if n == 1 else f"engine-{n}"): f"ipc://{folder}/e{n}.sock" for n in range(1, engines + 1)
        }
        self._environment = {
            **os.environ,
            "RECSYS_REDIS__URL": server.url,
            "RECSYS_API__PORT": str(self.port),
            "RECSYS_API__ADMIN_KEY": "test-key",
            "RECSYS_ENGINE__ENDPOINT": ",".join(self.engines.values()) or "ipc:///nobody-listens-here",
            "RECSYS_ENGINE__MODEL_DIR": str(model),
            "OMP_NUM_THREADS": "1",
            **environment,
        }

    def start(self, *names: str) -> None:
        """Start processes by the name of their subcommand: api, engine, colocated, ...; more engines: engine-2, ..."""
        for name in names:
            own = {"RECSYS_ENGINE__ENDPOINT": self.engines[name]} if name in self.engines else {}
            with (self.folder / f"{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "recsys.cli", "serve", name.partition("-")[0]],
                    env={**self._environment, **own},
                    cwd=ROOT,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )

    def pid(self, name: str) -> int:
        """Process id of a running process."""
        return self._processes[name].pid

    def kill(self, name: str) -> None:
        """kill -9."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def terminate(self, name: str) -> int:
        """SIGTERM; the exit code."""
        process = self._processes.pop(name)
        process.terminate()
        return process.wait(timeout=20)

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def ready(self) -> bool:
        """Whether `/readyz` says so."""
        try:
            with urllib.request.urlopen(f"{self.base}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait_ready(self, within_s: float = 150.0) -> None:
        def ready_or_dead() -> bool:
            dead = [name for name, process in self._processes.items() if process.poll() is not None]
            return bool(dead) or self.ready()

        eventually(ready_or_dead, within_s=within_s, what=f"the service ready; logs in {self.folder}")
        if not self.ready():
            pytest.fail(f"a process ended; the logs:\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.log"))


@pytest.fixture(scope="session")
def start_service(tiny_world: Path, tiny_model: Path) -> Callable[..., AbstractContextManager[Service]]:
    """Starts API, engines (0: one inside the API) and worker of the small world around a Redis of their own, catalogue
    loaded, no history."""
    from recsys.config import RedisSettings, Settings
    from recsys.data.dataset import Dataset
    from recsys.events.replay import publish_catalogue

    @contextmanager
    def start(folder: Path, engines: int = 1, **environment: str) -> Iterator[Service]:
        server = RedisServer(folder)
        server.start()
        running = Service(folder, server, tiny_model, engines, **environment)
        try:
            running.start("worker", *running.engines, "api" if engines else "colocated")
            publish_catalogue(Dataset.load(tiny_world), Settings(redis=RedisSettings(url=server.url)))
            running.wait_ready()
            yield running
        finally:
            running.stop()
            server.kill()

    return start


@pytest.fixture(scope="session")
def service(
    tmp_path_factory: pytest.TempPathFactory, start_service: Callable[..., AbstractContextManager[Service]]
) -> Iterator[Service]:
    """One service shared by the run. Tests use users of their own."""
    with start_service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="session", name="eventually")
def _eventually() -> Callable[..., None]:
    """Poll until a condition is true."""
    return eventually


@pytest.fixture(scope="session")
def run_process() -> Callable[[list[str], dict[str, str]], tuple[int, str]]:
    """Run a `recsys` subcommand to its end: (exit code, what it printed)."""

    def run(arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "recsys.cli", *arguments],
            env={**os.environ, **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


class EventStream:
    """A Redis with settings for it, and state workers in threads."""

    def __init__(self, url: str, *, events: dict[str, Any] | None = None, state: dict[str, Any] | None = None) -> None:
        from recsys.config import EventSettings, RedisSettings, Settings, StateSettings
        from recsys.state.keys import Keys

        self.settings = Settings(
            redis=RedisSettings(url=url),
            events=EventSettings(**{"block_ms": 50, "claim_every_ms": 20, "trim_every_ms": 20, **(events or {})}),
            state=StateSettings(**(state or {})),
        )
        self.redis = redis.Redis.from_url(url, decode_responses=True, encoding_errors="backslashreplace")
        self.keys = Keys(self.settings.redis.prefix)
        self.eventually = eventually
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start_worker(self) -> None:
        from recsys.events.worker import run_worker

        self._threads.append(threading.Thread(target=run_worker, args=(self.settings, self._stop)))
        self._threads[-1].start()

    def add(self, **fields: object) -> str:
        """XADD by hand; returns the entry's id."""
        return str(self.redis.xadd(self.keys.events, {name: str(value) for name, value in fields.items()}))

    def interact(self, user_id: str, item_id: str, kind: str = "view", **fields: object) -> str:
        return self.add(type="interaction", user_id=user_id, item_id=item_id, kind=kind, **fields)

    def settle(self) -> None:
        """Wait until everything in the stream is acknowledged."""
        from recsys.events.backlog import read_backlog

        group = self.settings.events.group
        eventually(lambda: read_backlog(self.redis, self.keys, group) == 0, what="all events applied")

    def read(self, reading: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        """Run `reading(client)` with a client as the API has it."""
        from recsys.state.client import async_client

        async def run() -> Any:
            client = async_client(self.settings.redis)
            try:
                return await reading(client)
            finally:
                await client.aclose()

        return asyncio.run(run())

    def stats(self) -> dict[str, int]:
        return {name: int(n) for name, n in self.redis.hgetall(self.keys.stats).items()}

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.redis.close()


@pytest.fixture
def make_stream(redis_url: str) -> Iterator[Callable[..., EventStream]]:
    """Makes event streams without a worker: `make_stream(url, events={...}, state={...})`."""
    made: list[EventStream] = []

    def make(url: str = redis_url, **settings: Any) -> EventStream:
        made.append(EventStream(url, **settings))
        return made[-1]

    yield make
    for stream in made:
        stream.close()


@pytest.fixture
def stream(make_stream: Callable[..., EventStream]) -> EventStream:
    """An event stream with one worker."""
    running = make_stream()
    running.start_worker()
    return running
