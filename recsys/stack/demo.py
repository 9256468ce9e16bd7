"""The whole service on one machine: Redis, world, model, worker, engine, API, board, traffic. Ctrl-C ends it all."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from recsys.stack.bootstrap import ensure_model, ensure_world, fill, short
from recsys.stack.local import LocalStack
from recsys.stack.processes import Processes, python
from recsys.stack.redis_server import free_port


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
    engines: int = 1
    learner: bool = False


def run_demo(options: DemoOptions, console: Console) -> None:
    """Start everything, print where it is, and watch until Ctrl-C.

    Raises:
        UnavailableError: a process did not come up; the message holds the end of its log.
    """
    folder = options.folder.resolve()
    with Processes(folder / "logs") as processes:
        processes.stop_on_signals()
        stack = LocalStack(
            processes,
            folder,
            console,
            options.port,
            options.admin_key,
            engines=options.engines,
            learner=options.learner,
        )
        stack.start_redis()
        ensure_world(folder / "world", console)
        ensure_model(folder / "model", folder / "world", console)
        began = time.monotonic()
        stack.start_service(folder / "model")
        fill(folder / "world", stack.settings(), console)
        stack.wait_ready()
        _print_addresses(stack.base, began, console)
        if options.board:
            _start_board(processes, stack, options, console)
        if options.traffic:
            processes.start("traffic", _traffic_command(folder, stack.base, options.rate_per_s))
            console.print(f"  traffic {options.rate_per_s:g} requests/s with a flash crowd now and then")
        console.print(f"  logs    {short(folder / 'logs')}/*.log\n\nCtrl-C ends everything.")
        processes.watch()
        console.print("\nEnding all processes.")


def _start_board(processes: Processes, stack: LocalStack, options: DemoOptions, console: Console) -> None:
    port = free_port(options.board_port)
    environment = {
        "RECSYS_API_URL": stack.base,
        "RECSYS_DASHBOARD_KEY": options.admin_key,
        "RECSYS_DASHBOARD_TASTES": str(options.folder.resolve() / "world" / "tastes.json"),
    }
    processes.start("board", python("-m", "dashboard", "--port", str(port)), env=environment)
    console.print(f"  board   [bold]http://127.0.0.1:{port}[/]")


def _traffic_command(folder: Path, base: str, rate_per_s: float) -> list[str]:
    tastes = str(folder / "world" / "tastes.json")
    return python("-m", "loadtest", "--shape", "demo", "--rate", f"{rate_per_s:g}", "--host", base, "--tastes", tastes)


def _print_addresses(base: str, began: float, console: Console) -> None:
    body = json.dumps({"user_id": "u1", "k": 5})
    console.print(f"\nReady after {time.monotonic() - began:.0f} s.\n")
    console.print(f"  API     [bold]{base}/docs[/]")
    console.print(
        f"  try     curl -s {base}/v1/recommendations -H 'content-type: application/json' -d '{body}'",
        soft_wrap=True,
        highlight=False,
    )
