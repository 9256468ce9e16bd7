"""A handful of child processes as one thing: started in order, restarted when they die, ended together."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import structlog

from recsys.errors import UnavailableError

log = structlog.get_logger(__name__)

STABLE_AFTER_S = 10.0
RESTART_MAX_S = 5.0


@dataclass(slots=True)
class Process:
    """One child: what to run, and where its output goes."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    restart: bool = True
    running: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    failures: int = 0
    wait_until_s: float = 0.0


class Processes:
    """Starts and watches children; a context manager that ends them all, last started first.

    Args:
        logs: folder that gets one `<name>.log` per child; it serves one `Processes` at a time.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Process] = []
        self._stopping = False

    def __enter__(self) -> Processes:
        """Take the folder.

        Raises:
            UnavailableError: children of an earlier run, whose parent was killed, are still there; it names them.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        self._lock = (self._logs / ".lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            pids = " ".join(self._lock.read().split())
            self._lock.close()
            raise UnavailableError(
                f"{self._logs}: an earlier run still has processes here; end them: kill {pids}"
            ) from None
        self._lock.truncate(0)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._lock.close()

    @property
    def stopping(self) -> bool:
        """Whether a signal asked to end."""
        return self._stopping

    def stop_on_signals(self) -> None:
        """SIGINT and SIGTERM end `watch`."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signalled)

    def start(self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Process:
        """Start a child now and keep it running from now on."""
        child = Process(name, command, env or {})
        self._children.append(child)
        self._spawn(child)
        return child

    def watch(self, every_s: float = 0.5) -> None:
        """Restart what dies, with growing pauses, until a signal comes."""
        while not self._stopping:
            for child in self._children:
                self._revive(child)
            time.sleep(every_s)

    def alive(self, name: str) -> bool:
        """Whether the child of that name runs."""
        return any(c.name == name and c.running is not None and c.running.poll() is None for c in self._children)

    def pid(self, name: str) -> int | None:
        """Process id of the child of that name, None while it does not run."""
        found = (c.running for c in self._children if c.name == name)
        return next((running.pid for running in found if running is not None and running.poll() is None), None)

    def log_tail(self, name: str, lines: int = 20) -> str:
        """The last lines a child wrote."""
        path = self._logs / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def stop(self, grace_s: float = 8.0) -> None:
        """SIGTERM to all, last started first; SIGKILL to what is still there after the grace."""
        self._stopping = True
        running = [c for c in reversed(self._children) if c.running is not None and c.running.poll() is None]
        for child in running:
            assert child.running is not None
            child.running.terminate()
            try:
                child.running.wait(timeout=grace_s)
            except subprocess.TimeoutExpired:
                log.warning("process_killed", name=child.name, after_s=grace_s)
                child.running.kill()
                child.running.wait()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _spawn(self, child: Process) -> None:
        with (self._logs / f"{child.name}.log").open("ab") as output:
            child.running = subprocess.Popen(
                child.command,
                env={**os.environ, **child.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end the children in order
                pass_fds=[self._lock.fileno()],  # the lock is held until the last of us is gone
            )
        self._lock.write(f"{child.running.pid}\n")
        self._lock.flush()
        child.started_s = time.monotonic()

    def _revive(self, child: Process) -> None:
        now = time.monotonic()
        if self._stopping or not child.restart or child.running is None or child.running.poll() is None:
            return
        if not child.wait_until_s:
            child.failures = 0 if now - child.started_s > STABLE_AFTER_S else child.failures + 1
            child.wait_until_s = now + min(RESTART_MAX_S, 0.2 * 2**child.failures)
            log.warning("process_died", name=child.name, code=child.running.returncode)
        elif now >= child.wait_until_s:
            child.wait_until_s = 0.0
            self._spawn(child)


def python(*arguments: str) -> list[str]:
    """This interpreter with arguments."""
    return [sys.executable, *arguments]
