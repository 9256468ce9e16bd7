#!/usr/bin/env python3
"""Does `docker compose up` bring up a service that works and loses nothing? Needs Docker and Python, nothing installed.

    build -> up --wait -> a recommendation -> a like that changes the next one -> events while Redis is killed and comes
    back: each accepted one counted exactly once -> engine killed and back -> a second up, model present -> down -v

Runs under a project name and ports of its own, so a stack that is already up is left alone. Exit code 0: all held, or
there is no Docker engine here; 1: something did not, and the containers' logs follow. What the environment says
(COMPOSE_FILE, TORCH_INDEX_URL, ...) holds here too.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "recsys-check"
BATCHES, BATCH = 200, 50
USER = "u1"

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class CheckError(Exception):
    """Something did not hold."""


class Stack:
    """One compose project under a name of its own."""

    def __init__(self) -> None:
        api_port, board_port = _free_port(), _free_port()
        self.base = f"http://127.0.0.1:{api_port}"
        self.board = f"http://127.0.0.1:{board_port}"
        self._env = {**os.environ, "API_PORT": str(api_port), "BOARD_PORT": str(board_port)}

    def compose(self, *arguments: str, timeout_s: float = 1_800, quiet: bool = True) -> str:
        """Run `docker compose ...`; its standard output.

        Raises:
            CheckError: it failed; the message holds what it wrote.
        """
        done = subprocess.run(
            ["docker", "compose", "--project-name", PROJECT, *arguments],
            cwd=ROOT, env=self._env, timeout=timeout_s, check=False, text=True,
            stdout=subprocess.PIPE if quiet else None, stderr=subprocess.STDOUT if quiet else None,
        )  # fmt: skip
        if done.returncode:
            raise CheckError(f"docker compose {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout or ''}")
        return done.stdout or ""

    def call(self, method: str, path: str, body: object = None, *, timeout_s: float = 10) -> Any:
        """One call of the service, from outside, as a user would make it."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"content-type": "application/json"}, method=method)
        with _direct.open(request, timeout=timeout_s) as answer:
            return json.load(answer)

    def ready(self) -> bool:
        """Whether Redis, engine, model and catalogue are there."""
        try:
            return bool(self.call("GET", "/readyz")["ready"])
        except OSError:
            return False


def main() -> int:
    """Run all steps; 0, or 1 with the logs on standard error."""
    if why := _no_engine():
        say(f"skipped: {why}")
        return 0
    stack = Stack()
    try:
        with timed("build"):
            stack.compose("build")
        with timed("up --wait, nothing there yet (makes world and model)"):
            stack.compose("up", "--detach", "--wait")
        until(stack.ready, "/readyz", within_s=30)
        check_privileges(stack)
        check_recommendation(stack)
        check_like(stack)
        check_board(stack)
        check_redis_killed(stack)
        check_engine_killed(stack)
        stack.compose("down")
        with timed("up --wait, model and history present"):
            stack.compose("up", "--detach", "--wait")
        with timed("... until ready"):
            until(stack.ready, "/readyz", within_s=30)
        check_recommendation(stack)
    except (CheckError, OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"{_logs(stack)}\nFAILED: {error}\n")
        return 1
    finally:
        with timed("down -v"):
            stack.compose("--profile", "*", "down", "--volumes", "--remove-orphans")
    say("all held")
    return 0


def check_privileges(stack: Stack) -> None:
    """No container runs as root, writes to its image, or has a port that the network can reach."""
    names = stack.compose("ps", "--services").split()
    for name in names:
        require(stack.compose("exec", "-T", name, "id", "-u").strip() != "0", f"{name} runs as root")
        wrote = stack.compose("exec", "-T", name, "sh", "-c", "touch /etc/written 2>/dev/null && echo yes || echo no")
        require(wrote.strip() == "no", f"{name} can write to its image")
    ports = stack.compose("ps", "--format", "{{.Service}} {{.Ports}}")
    require("0.0.0.0" not in ports and "[::]" not in ports, f"reachable from outside this machine:\n{ports}")
    say(f"unprivileged, read-only, on the loopback: {' '.join(sorted(names))}")


def check_recommendation(stack: Stack) -> list[str]:
    """A known user gets an answer of the model, not of the fallback."""
    answer = stack.call("POST", "/v1/recommendations", {"user_id": USER, "k": 5})
    require(len(answer["items"]) == 5, f"5 items wanted: {answer}")
    require(answer.get("fallback") is None and not answer["cold_start"], f"not a personal answer: {answer}")
    titles = ", ".join(str(item["title"]) for item in answer["items"])
    say(f"recommendation in {answer['timing']['total_ms']:.1f} ms: {titles}")
    return [item["item_id"] for item in answer["items"]]


def check_like(stack: Stack) -> None:
    """One like changes the next answer, within a second."""
    before = check_recommendation(stack)
    accepted = stack.call("POST", "/v1/events", {"user_id": USER, "item_id": before[0], "kind": "like"})
    require(accepted["accepted"] == 1, f"the like was not taken: {accepted}")
    began = time.monotonic()
    until(lambda: check_recommendation_ids(stack) != before, "an answer that the like changed", within_s=1)
    say(f"the like of {before[0]} changed the answer within {(time.monotonic() - began) * 1e3:.0f} ms")


def check_recommendation_ids(stack: Stack) -> list[str]:
    """Item ids of the answer for the known user."""
    return [item["item_id"] for item in stack.call("POST", "/v1/recommendations", {"user_id": USER, "k": 5})["items"]]


def check_board(stack: Stack) -> None:
    """The board serves its page."""
    with _direct.open(stack.board, timeout=10) as answer:
        require(b"<title>" in answer.read(), "the board answers without a page")


def check_redis_killed(stack: Stack) -> None:
    """Redis dies by SIGKILL while events come in; afterwards every accepted event has counted exactly once."""
    user = f"check-{uuid.uuid4().hex[:8]}"
    sender = EventSender(stack, user)
    sender.start()
    until(lambda: sender.sent >= BATCHES // 4, "the first quarter of the events", within_s=60)
    stack.compose("kill", "--signal", "KILL", "redis")
    down_at = sender.sent
    began = time.monotonic()
    stack.compose("up", "--detach", "--wait", "--no-recreate", "redis")
    back_s = time.monotonic() - began
    until(stack.ready, "/readyz after Redis came back", within_s=60)
    ready_s = time.monotonic() - began
    sender.join(timeout=120)
    require(not sender.is_alive(), f"only {sender.sent} of {BATCHES} batches were taken within 120 s")
    counted: Callable[[], int] = lambda: stack.call("GET", f"/v1/users/{user}")["counts"].get("view", 0)  # noqa: E731
    until(lambda: counted() >= BATCHES * BATCH, "all events counted", within_s=60)
    require(counted() == BATCHES * BATCH, f"{counted()} counted of {BATCHES * BATCH} events")
    say(
        f"Redis killed after {down_at * BATCH} of {BATCHES * BATCH} events: healthy again after {back_s:.1f} s, "
        f"service ready after {ready_s:.1f} s; {sender.failures} calls refused and sent again; "
        f"{counted()} events counted, 0 lost, 0 twice"
    )


class EventSender(threading.Thread):
    """Sends batches of events of one user; a batch that is not accepted is sent again with the same ids."""

    def __init__(self, stack: Stack, user: str) -> None:
        super().__init__(daemon=True)
        self.sent, self.failures = 0, 0
        self._stack, self._user = stack, user

    def run(self) -> None:
        for n in range(BATCHES):
            ids = [f"{self._user}-{n}-{i}" for i in range(BATCH)]
            events = [{"user_id": self._user, "item_id": f"i{i + 1}", "kind": "view", "event_id": e}
                      for i, e in enumerate(ids)]  # fmt: skip
            while not self._accepted(events):
                self.failures += 1
                time.sleep(0.2)
            self.sent += 1

    def _accepted(self, events: list[dict[str, str]]) -> bool:
        try:
            answer = self._stack.call("POST", "/v1/events", {"events": events})
        except OSError:  # refused, unreachable, or no answer in time
            return False
        return bool(answer["accepted"] + answer["duplicates"] == len(events))


def check_engine_killed(stack: Stack) -> None:
    """Without an engine the service answers from its fallback and says so; with one again, from the model."""
    ask = {"user_id": USER, "k": 5}
    stack.compose("kill", "--signal", "KILL", "engine")
    answer = stack.call("POST", "/v1/recommendations", ask)
    require(bool(answer["fallback"]) and len(answer["items"]) == 5, f"no fallback without an engine: {answer}")
    began = time.monotonic()
    stack.compose("up", "--detach", "--wait", "--no-recreate", "--no-deps", "engine")
    until(stack.ready, "/readyz after the engine came back", within_s=60)
    say(f"engine killed: fallback ({answer['fallback']}); ready again after {time.monotonic() - began:.1f} s")


def say(text: str) -> None:
    """One line of the report."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Report how long a step took."""
    began = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - began:.1f} s")


def require(condition: bool, otherwise: str) -> None:
    """Fail with `otherwise` unless the condition holds."""
    if not condition:
        raise CheckError(otherwise)


def until(condition: Callable[[], bool], what: str, *, within_s: float) -> None:
    """Poll until the condition holds; fail with `what` after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not _holds(condition):
        require(time.monotonic() < deadline, f"not within {within_s:g} s: {what}")
        time.sleep(0.02)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except urllib.error.HTTPError:
        return False


def _no_engine() -> str:
    """Why there is nothing to check; empty if there is a Docker engine with compose."""
    if shutil.which("docker") is None:
        return "there is no docker command here"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        if subprocess.run(command, capture_output=True, timeout=30, check=False).returncode:
            return f"`{' '.join(command)}` fails, so there is no Docker engine to use"
    return ""


def _logs(stack: Stack) -> str:
    try:
        return stack.compose("ps", "--all") + stack.compose("logs", "--no-color", "--tail", "40")
    except CheckError as error:
        return str(error)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
