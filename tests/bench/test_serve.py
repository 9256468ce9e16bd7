"""The serving bench: one question in every wire, one ranker in two forms, and a load that hides nothing."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from recsys.bench.serving.bench import ServeOptions, run_serve
from recsys.bench.serving.load import Load, LoadSpec
from recsys.bench.serving.plot import plot_serve
from recsys.bench.serving.questions import CANDIDATES, REAL_HISTORY, TOP, WIRES, questions, real_history
from recsys.bench.serving.ranker import SmallRanker
from recsys.bench.serving.running import python_with
from recsys.bench.serving.servers import SERVERS
from recsys.errors import UnavailableError


def test_every_wire_asks_the_same() -> None:
    question = questions(1)[0]
    plain = msgspec.json.decode(WIRES["plain"](question))
    assert plain == {"user_id": question.user, "candidates": list(question.candidates)}
    assert msgspec.json.decode(WIRES["listed"](question)) == {"requests": [plain]}
    for wire, who in (("by_history", {"history": [str(question.user)]}), ("by_user", {"user_id": str(question.user)})):
        body = msgspec.json.decode(WIRES[wire](question))
        assert body == {**who, "k": TOP, "exclude_seen": False, "candidates": [str(n) for n in question.candidates]}
    assert {server.wire for server in SERVERS} <= set(WIRES)
    assert all(len(real_history(question)) == REAL_HISTORY for question in questions())


def test_the_split_first_layer_ranks_alike() -> None:
    asked = questions(12)
    users, items = [q.user for q in asked], [q.candidates for q in asked]
    (best, scores), (split_best, split_scores) = (SmallRanker(split=s).best(users, items) for s in (False, True))
    assert np.allclose(scores, split_scores, atol=1e-5)
    assert sum(a == b for a, b in zip(best, split_best, strict=True)) >= 11  # ties may swap
    assert all(len(set(one)) == TOP and set(one) <= set(q.candidates) for one, q in zip(best, asked, strict=True))
    assert len(items[0]) == CANDIDATES


class Slow:
    """Answers whatever comes after a pause, in two pieces; every third answer is a refusal."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s
        self.seen = 0
        self.serving: list[asyncio.Task[None] | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.append(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]))
                self.seen += 1
                status = b"503 Busy" if self.seen % 3 == 0 else b"200 OK"
                await asyncio.sleep(self.pause_s)
                writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 4\r\n\r\nab")
                await writer.drain()
                writer.write(b"cd")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def asked_of(server: Slow, **spec: Any) -> Any:
    async def run() -> Any:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        load = Load(LoadSpec(port=port, path="/", wire="plain", **spec))
        result = await load.run()
        load.close()
        listening.close()
        await asyncio.gather(*(task for task in server.serving if task))
        return result

    return asyncio.run(run())


def test_the_open_loop_counts_from_when_a_request_was_due() -> None:
    """One connection that needs 50 ms cannot answer 100 a second: requests wait, and their waiting is counted."""
    server = Slow(0.05)
    result = asked_of(server, connections=1, seconds=0.5, rate=100.0)
    latencies_s = np.frombuffer(base64.b64decode(result.latencies), np.float32)
    assert result.sent == server.seen
    assert result.answered + result.others[503] == result.sent > 30
    assert latencies_s.max() > 10 * 0.05
    assert np.sort(latencies_s)[0] >= 0.05


def test_the_closed_loop_keeps_every_connection_busy_and_counts_refusals_apart() -> None:
    server = Slow(0.01)
    result = asked_of(server, connections=4, seconds=0.4)
    assert result.answered > 2 * result.others[503] * 0.8
    assert 0 <= result.sent - result.answered - result.others[503] <= 4  # under way at the end


def test_a_package_that_is_nowhere_has_no_interpreter(tmp_path: Path) -> None:
    assert python_with("no_such_peer", [tmp_path]) is None
    assert python_with("msgspec", []) is not None


def test_cores_that_are_not_there_are_named() -> None:
    with pytest.raises(UnavailableError, match="9999"):
        ServeOptions(server_cores=(9999,))


@pytest.mark.e2e
def test_the_service_and_a_bare_app_answer_alike_and_are_measured(tmp_path: Path) -> None:
    import os

    from rich.console import Console

    core = min(os.sched_getaffinity(0))
    options = ServeOptions(
        rounds=1, seconds=0.5, only=("raw ASGI", "ours with state"), server_cores=(core,), client_cores=(core,)
    )
    rows, real = run_serve(options, Console(quiet=True))
    assert [row["server"] for row in rows] == ["raw ASGI", "ours with state"]
    assert not real
    for row in rows:
        assert float(row["per_s_64"]) > 0
        assert float(row["memory_mb"]) > 10
        assert row["x_raw_64"] != ""
        assert row["x_mosec_64"] == ""
    plot_serve(rows, tmp_path / "serve.png")
    assert (tmp_path / "serve.png").stat().st_size > 1_000
