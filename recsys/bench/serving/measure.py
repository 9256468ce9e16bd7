"""One load on one running server, from as many client processes as there are cores for them."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from recsys.bench.serving.load import LoadResult, LoadSpec
from recsys.bench.serving.running import ROOT, Running, pinned
from recsys.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a load, over all its processes.

    Attributes:
        cpu_us: processor time of the server per answer, microseconds.
        failed: answers other than 200, and broken connections.
        client_busy: share of a core of the busiest client.
    """

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    failed: int
    client_busy: float


def load(
    running: Running, cores: Sequence[int], *, connections: int, seconds: float, rate: float = 0.0, seed: int = 0
) -> Trial:
    """A load of `seconds`; `rate` requests per second in all, 0: as fast as answers come."""
    share = len(cores)
    specs = [
        LoadSpec(
            port=running.port,
            path=running.server.path,
            wire=running.server.wire,
            connections=connections // share,
            seconds=seconds,
            rate=rate / share,
            seed=seed * share + n,
        )
        for n in range(share)
    ]
    before_s = running.cpu_s()
    clients = [_start(spec, core) for spec, core in zip(specs, cores, strict=True)]
    results = [_result(client) for client in clients]
    answered = sum(result.answered for result in results)
    latencies = [np.frombuffer(base64.b64decode(result.latencies), np.float32) for result in results]
    all_s = np.concatenate(latencies)
    p50, p99 = np.percentile(all_s, [50, 99]) * 1e3 if len(all_s) else (np.nan, np.nan)
    return Trial(
        per_s=answered / seconds,
        p50_ms=float(p50),
        p99_ms=float(p99),
        cpu_us=(running.cpu_s() - before_s) / max(answered, 1) * 1e6,
        failed=sum(sum(result.others.values()) for result in results),
        client_busy=max(result.busy for result in results),
    )


def bare_rate(folder: Path, cores: Sequence[int], seconds: float) -> float:
    """Requests per second of the real ranker alone, one process a core."""
    command = [sys.executable, "-m", "recsys.bench.serving.real_ranker", str(folder), str(seconds)]
    running = []
    for core in cores:
        with pinned([core]):
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT))
    return sum(float(process.communicate()[0]) for process in running)


def _start(spec: LoadSpec, core: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "recsys.bench.serving.load", msgspec.json.encode(spec).decode()]
    with pinned([core]):
        return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)


def _result(client: subprocess.Popen[bytes]) -> LoadResult:
    written = client.communicate()[0]
    try:
        return msgspec.json.decode(written, type=LoadResult)
    except msgspec.DecodeError:
        raise UnavailableError(f"a client of the load ended with {client.returncode} and no result") from None
