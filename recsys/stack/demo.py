"""The whole service on one machine: Redis, world, model, worker, engine, API, board, traffic. Ctrl-C ends it all."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis
from rich.console import Console

from recsys.config import RedisSettings, Settings
from recsys.errors import UnavailableError
from recsys.stack.bootstrap import ensure_model, ensure_world, fill
from recsys.stack.processes import Processes, python
from recsys.stack.redis_server import find_binary, free_port, server_command


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What `recsys demo` can be told."""

    folder: Path = Path("var/demo")
    port: int = 8000
    board_port: int = 8501
    rate_per_s: float = 20.0
    traffic: bool = True
    board: bool = True
    admin_key: str = "demo"


def run_demo(options: DemoOptions, console: Console) -> None:
    """Start everything, print where it is, and watch until Ctrl-C.

    Raises:
        UnavailableError: a process did not come up; the message holds the end of its log.
    """
    began = time.monotonic()
    folder = options.folder.resolve()
    with Processes(folder / "logs") as processes:
        processes.stop_on_signals()
        url = _start_redis(processes, folder, console)
        ensure_world(folder / "world", console)
        ensure_model(folder / "model", folder / "world", console)
        api_port = free_port(options.port)
        env = _environment(options, folder, url, api_port)
        base = f"http://127.0.0.1:{api_port}"
        processes.start("worker", python("-m", "recsys.cli", "serve", "worker"), env=env)
        processes.start("engine", python("-m", "recsys.cli", "serve", "engine"), env=env)
        processes.start("api", python("-m", "recsys.cli", "serve", "api"), env=env)
        fill(folder / "world", Settings(redis=RedisSettings(url=url)), console)
        _await(processes, "api", lambda: _ready(base), "the service to be ready", console)
        _print_addresses(base, began, console)
        if options.board:
            board_port = free_port(options.board_port)
            board_env = {"RECSYS_API_URL": base, "RECSYS_DASHBOARD_KEY": options.admin_key}
            processes.start("board", python("-m", "dashboard", "--port", str(board_port)), env=board_env)
            console.print(f"  board   [bold]http://127.0.0.1:{board_port}[/]")
        if options.traffic:
            processes.start("traffic", _traffic_command(folder, base, options.rate_per_s))
            console.print(f"  traffic {options.rate_per_s:g} requests/s with a flash crowd now and then")
        console.print(f"  logs    {_short(folder / 'logs')}/*.log\n\nCtrl-C ends everything.")
        processes.watch()
        console.print("\nEnding all processes.")


def _start_redis(processes: Processes, folder: Path, console: Console) -> str:
    """URL of the Redis to use, started if need be."""
    if url := os.environ.get("REDIS_URL"):
        console.print("Redis: the one in REDIS_URL")
        return url
    binary, port = find_binary(), free_port(6379)
    console.print(f"Redis: {binary.origin} on port {port}")
    processes.start("redis", server_command(binary, folder / "redis", port))
    url = f"redis://127.0.0.1:{port}/0"
    _await(processes, "redis", lambda: _pings(url), "Redis to answer", console)
    return url


def _environment(options: DemoOptions, folder: Path, url: str, api_port: int) -> dict[str, str]:
    return {
        "RECSYS_REDIS__URL": url,
        "RECSYS_API__PORT": str(api_port),
        "RECSYS_API__ADMIN_KEY": options.admin_key,
        "RECSYS_ENGINE__ENDPOINT": f"ipc://{folder}/engine.sock",
        "RECSYS_ENGINE__MODEL_DIR": str(folder / "model"),
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def _traffic_command(folder: Path, base: str, rate_per_s: float) -> list[str]:
    tastes = str(folder / "world" / "tastes.json")
    return python("-m", "loadtest", "--shape", "demo", "--rate", f"{rate_per_s:g}", "--host", base, "--tastes", tastes)


def _print_addresses(base: str, began: float, console: Console) -> None:
    console.print(f"\nReady after {time.monotonic() - began:.0f} s.\n")
    console.print(f"  API     [bold]{base}/docs[/]")
    body = json.dumps({"user_id": "u1", "k": 5})
    console.print(
        f"  try     curl -s {base}/v1/recommendations -H 'content-type: application/json' -d '{body}'",
        soft_wrap=True,
        highlight=False,
    )


def _await(processes: Processes, name: str, condition: Callable[[], bool], what: str, console: Console) -> None:
    """Poll for a condition, giving up when the process that should bring it died for good or after a minute."""
    deadline = time.monotonic() + 60
    with console.status(f"Waiting for {what}"):
        while not condition():
            if processes.stopping:
                raise KeyboardInterrupt
            if time.monotonic() > deadline:
                raise UnavailableError(f"{what}: not within 60 s. The end of {name}.log:\n{processes.log_tail(name)}")
            time.sleep(0.05)


def _pings(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _ready(base: str) -> bool:
    try:
        with urllib.request.urlopen(f"{base}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _short(path: Path) -> Path:
    """Relative to where the user stands, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
