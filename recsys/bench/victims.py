"""The processes of a local stack, to be killed (-9) at random and measured."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from pathlib import Path

from recsys.stack.processes import Processes

PAGE = os.sysconf("SC_PAGE_SIZE")
KINDS = ("engine", "engine", "api worker", "redis")  # drawn from; engines twice as often


class Victims:
    """A context manager: while it is open, what dies is started again.

    Args:
        processes: of the stack; names begin with engine, api, worker or redis.
        pids: child process by name.
    """

    def __init__(self, processes: Processes, names: list[str]) -> None:
        self._processes = processes
        self._names = names
        self._watching = threading.Thread(target=processes.watch, kwargs={"every_s": 0.1}, daemon=True)

    def __enter__(self) -> Victims:
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.stop()  # which ends the watch too
        self._watching.join()

    def kill_one(self, draws: random.Random) -> str:
        """Kill one process; what it was, "" if there was none of the drawn kind."""
        kind = draws.choice(KINDS)
        found = self._of_kind(kind)
        if not found:
            return ""
        with contextlib.suppress(ProcessLookupError):
            os.kill(draws.choice(found), signal.SIGKILL)
        return kind

    def _of_kind(self, kind: str) -> list[int]:
        if kind == "api worker":
            return [child for pid in self._pids("api") for child in _workers_of(pid)]
        return [pid for name in self._names if name.startswith(kind) for pid in self._pids(name)]

    def _pids(self, name: str) -> list[int]:
        pid = self._processes.pid(name)
        return [] if pid is None else [pid]

    def memory_mb(self) -> dict[str, float]:
        """Resident memory by process; that of the API is the sum over its workers."""
        used = {}
        for name in self._names:
            pids = [p for pid in self._pids(name) for p in (pid, *_children_of(pid))]
            used[name] = sum(_resident_mb(pid) for pid in pids)
        return used


def _children_of(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _workers_of(pid: int) -> list[int]:
    """Child processes that serve, without the one that watches over shared memory."""
    return [child for child in _children_of(pid) if b"spawn_main" in _command(child)]


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _resident_mb(pid: int) -> float:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e6
    return 0.0
