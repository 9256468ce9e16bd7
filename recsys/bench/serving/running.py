"""A server of the bench as running processes: pinned, asked until it answers, paused between its turns, weighed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import redis

from recsys.bench.serving.questions import WIRES, questions
from recsys.bench.serving.servers import Server
from recsys.errors import UnavailableError
from recsys.stack.processes import Processes
from recsys.stack.redis_server import find_binary, free_port, server_command
from recsys.state.items import CatalogueItem
from recsys.state.keys import Keys

ROOT = Path(__file__).parents[3]
READY_WITHIN_S = 90.0
SURE = 8  # answers in a row, each over a connection of its own: of two workers one is ready first
HISTORY = 30
PAGE = 5_000


class Running:
    """Processes of one server. A context manager that ends them.

    Args:
        server: which.
        folder: for logs, sockets and Redis' file.
        cores: the processes run there and nowhere else.
        python: interpreter that has the server's package.
        model: model folder for engines.
        workers: model processes.
    """

    def __init__(
        self, server: Server, folder: Path, *, cores: Sequence[int], python: str, model: Path, workers: int
    ) -> None:
        self.server = server
        self._folder = folder
        self._cores = cores
        self.python = python
        self._model = model
        self._workers = workers
        self.port = 0
        self.ready_s = 0.0
        self._processes = Processes(folder / "logs")

    def __enter__(self) -> Running:
        self._processes.__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()
        pids = self.pids()
        self._processes.__exit__()
        for pid in pids:  # children that outlive their parent
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _start(self) -> None:
        self.port = free_port(0)
        environment = {**self.server.env, **self._environment()}
        with pinned(self._cores):
            if self.server.redis:
                port = free_port(0)
                environment["RECSYS_REDIS__URL"] = url = f"redis://127.0.0.1:{port}/0"
                self._processes.start("redis", server_command(find_binary(), self._folder / "redis", port))
                fill(url, self.server.items)
            began = time.monotonic()
            for name, command in self.server.commands.items():
                sockets = self.sockets()
                own = {"RECSYS_ENGINE__ENDPOINT": sockets.get(name, ",".join(sockets.values()))} if sockets else {}
                filled = [part.format(port=self.port, python=self.python) for part in command]
                self._processes.start(name, filled, env={**environment, **own})
        while not self._answers():
            if time.monotonic() - began > READY_WITHIN_S or not self._alive():
                tails = "\n".join(f"{name}: {self._processes.log_tail(name, 8)}" for name in self.server.commands)
                raise UnavailableError(f"{self.server.name} does not answer\n{tails}")
            time.sleep(0.05)
        self.ready_s = time.monotonic() - began

    def _environment(self) -> dict[str, str]:
        return {
            "PYTHONPATH": str(ROOT),
            "BENCH_PORT": str(self.port),
            "BENCH_WORKERS": str(self._workers),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "RECSYS_API__PORT": str(self.port),
            "RECSYS_ENGINE__MODEL_DIR": str(self._model),
        }

    def sockets(self) -> dict[str, str]:
        """ZeroMQ address of each engine."""
        return {name: f"ipc://{self._folder}/{name}.sock" for name in self.server.commands if name.startswith("engine")}

    def _alive(self) -> bool:
        return all(self._processes.alive(name) for name in self.server.commands)

    def _answers(self) -> bool:
        try:
            return all(self.best(0) for _ in range(SURE))
        except (OSError, ValueError, KeyError):
            return False

    def best(self, question: int) -> list[int]:
        """The items that the server answers a question with.

        Raises:
            OSError: it does not answer with 200. KeyError: it answers with something else.
        """
        body = WIRES[self.server.wire](questions()[question])
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{self.server.path}", body, {"Content-Type": "application/json"}
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=5) as answer:
            found = msgspec.json.decode(answer.read())
        if isinstance(found, list):
            found = found[0]
        if found.get("fallback"):
            raise KeyError("fallback")
        return [int(item["item_id"]) if isinstance(item, dict) else item for item in found["items"]]

    def pids(self) -> list[int]:
        """All processes, children included."""
        found: list[int] = []
        own = (self._processes.pid(name) for name in ("redis", *self.server.commands))
        todo = [pid for pid in own if pid is not None]
        while todo:
            pid = todo.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    todo += [int(child) for child in children.read_text().split()]
        return found

    def memory_mb(self) -> float:
        """Proportional set size of all processes: shared pages count once."""
        total_kb = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total_kb += int(line.split()[1])
        return total_kb / 1024

    def cpu_s(self) -> float:
        """Processor time of all processes since they began."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def pause(self) -> None:
        """Stop all processes until it is this server's turn, so that an idle one takes nothing from another."""
        if self.server.pause:
            self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on."""
        if self.server.pause:
            self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@contextlib.contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """What is started here runs on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def fill(url: str, items: int) -> None:
    """Catalogue and histories, as the worker would have written them."""
    keys, wait_until = Keys(), time.monotonic() + READY_WITHIN_S
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                break
            except redis.RedisError:
                if time.monotonic() > wait_until:
                    raise
                time.sleep(0.02)
        encode = msgspec.json.Encoder().encode
        for first in range(0, items, PAGE):
            page = [
                CatalogueItem(item_id=str(n), title=f"Item number {n}", ts=1, categories=(f"category {n % 18}",))
                for n in range(first, min(first + PAGE, items))
            ]
            client.hset(keys.items, mapping={item.item_id: encode(item) for item in page})
        pipe = client.pipeline(transaction=False)
        for question in questions():
            user = str(question.user)
            past = [*question.candidates[: HISTORY - 1], question.user]
            pipe.zadd(keys.history(user), {f"{n}|click|{item}": n for n, item in enumerate(past, start=1)})
            pipe.hset(keys.counts(user), mapping={"click": HISTORY})
        pipe.execute()


def python_with(package: str, venvs: Sequence[Path]) -> str | None:
    """The interpreter that has a package: this one, or that of the first environment."""
    for python in (sys.executable, *(str(venv / "bin" / "python") for venv in venvs)):
        if not package:
            return python
        check = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", check], check=False).returncode == 0:
                return python
    return None
