"""Redis, worker, engine and API as child processes: the core of the demo and of every measurement."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import redis
from rich.console import Console

from recsys.config import RedisSettings, Settings
from recsys.errors import UnavailableError
from recsys.stack.processes import Processes, python
from recsys.stack.redis_server import find_binary, free_port, server_command

START_WITHIN_S = 60


@dataclass(slots=True)
class LocalStack:
    """The core of the service on the loopback.

    Args:
        processes: what runs them, and ends them.
        folder: for the socket and Redis' file.
        console: where waiting is shown.
        port: of the API, if it is free.
        admin_key: for admin calls.
        more: further settings of all processes.
        engines: how many engine processes; 0 = the API process is one too.
        learner: learn from the stream while serving.
        engine_module: arguments of Python that run an engine.
    """

    processes: Processes
    folder: Path
    console: Console
    port: int = 8000
    admin_key: str = "demo"
    more: Mapping[str, str] = field(default_factory=dict)
    engines: int = 1
    learner: bool = False
    engine_module: tuple[str, ...] = ("-m", "recsys.cli", "serve", "engine")
    redis_url: str = ""
    base: str = ""

    def start_redis(self) -> None:
        """Find the Redis to use, or start one.

        Raises:
            UnavailableError: there is none, or it does not answer.
        """
        if url := os.environ.get("REDIS_URL"):
            self.console.print("Redis: the one in REDIS_URL")
            self.redis_url = url
        else:
            binary, port = find_binary(), free_port(6379)
            self.console.print(f"Redis: {binary.origin} on port {port}")
            self.processes.start("redis", server_command(binary, self.folder / "redis", port))
            self.redis_url = f"redis://127.0.0.1:{port}/0"
        self._await("redis", self._pings, "Redis to answer")

    def start_service(self, model: Path) -> None:
        """Start worker, engines and API; `wait_ready` waits for the first engine."""
        port = free_port(self.port)
        self.base = f"http://127.0.0.1:{port}"
        sockets = {name: f"ipc://{self.folder}/{name}.sock" for name in self.engine_names}
        environment = {
            "RECSYS_REDIS__URL": self.redis_url,
            "RECSYS_API__PORT": str(port),
            "RECSYS_API__ADMIN_KEY": self.admin_key,
            "RECSYS_ENGINE__MODEL_DIR": str(model),
            "OMP_WAIT_POLICY": "PASSIVE",
            **self.more,
        }
        if sockets:
            environment["RECSYS_ENGINE__ENDPOINT"] = ",".join(sockets.values())
        for name in ("worker", self.api_name, "learner") if self.learner else ("worker", self.api_name):
            self.processes.start(name, python("-m", "recsys.cli", "serve", name), env=environment)
        for name, socket in sockets.items():
            own = {**environment, "RECSYS_ENGINE__ENDPOINT": socket}
            self.processes.start(name, python(*self.engine_module), env=own)

    @property
    def api_name(self) -> str:
        """The API process as `processes` calls it."""
        return "api" if self.engines else "colocated"

    @property
    def engine_names(self) -> list[str]:
        """Engine processes as `processes` calls them: engine, engine-2, ..."""
        return ["engine" if n == 1 else f"engine-{n}" for n in range(1, self.engines + 1)]

    def wait_ready(self) -> None:
        """Return when the API says that it is ready.

        Raises:
            UnavailableError: it is not within a minute; the message holds the ends of the logs.
        """
        self._await(self.api_name, self._ready, "the service to be ready")

    def settings(self) -> Settings:
        """Settings of a program that talks to this stack's Redis."""
        return Settings(redis=RedisSettings(url=self.redis_url))

    def _await(self, name: str, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_WITHIN_S
        with self.console.status(f"Waiting for {what}"):
            while not condition():
                if self.processes.stopping:
                    raise KeyboardInterrupt
                if time.monotonic() > deadline:
                    names = dict.fromkeys((name, *self.engine_names[:1]))
                    tails = "\n".join(f"{n}.log: {self.processes.log_tail(n, 5)}" for n in names)
                    raise UnavailableError(f"{what}: not within {START_WITHIN_S} s\n{tails}")
                time.sleep(0.05)

    def _pings(self) -> bool:
        try:
            with redis.Redis.from_url(self.redis_url, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.base}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
