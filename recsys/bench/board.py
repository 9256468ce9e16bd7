"""Does the board slow the service, and does it stay alive itself? A real service in a burst, with and without viewers.

Turns without and with viewers alternate under the same open-model load, so that a disturbance of the machine falls on
both. Viewers are sessions without a browser (`dashboard.viewers`): what a browser burns is its own machine's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from recsys.bench.board_tab import open_tab
from recsys.bench.burst import Questions, Service, switch
from recsys.bench.film import start_board
from recsys.bench.open_loop import Outcome, connections, open_loop
from recsys.stack.local import LocalStack

CONNECTIONS = 512
RSS_EVERY_S = 5.0
PIECE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardOptions:
    """One measurement.

    Attributes:
        viewers: open boards in the turns with viewers.
        rate: requests per second at all times.
        overload_rate: requests per second while redraws are timed.
        turn_s: length of a turn.
        turns: pairs of turns.
        overload_s: length of the overload with one viewer; minutes of it show whether memory stays bounded.
    """

    viewers: int = 10
    rate: float = 40.0
    overload_rate: float = 1_500.0
    turn_s: float = 20.0
    turns: int = 5
    overload_s: float = 60.0
    deadline_ms: float = 300.0


async def measure_board(
    stack: LocalStack, world: Path, options: BoardOptions, console: Console
) -> dict[str, float | str]:
    """One row: p99 with viewers over p99 without (median of the pairs), redraw times, memory of the board."""
    from dashboard.viewers import watch

    board = start_board(stack)
    await switch(Service(stack.base, stack.admin_key), "price")
    bodies = [question.body for question in Questions.of(world, 0).calm]
    pid = stack.processes.pid("board")
    assert pid is not None, "it has just answered"
    memory = _Memory(pid)
    watching = asyncio.create_task(memory.watch())
    await watch(board, 5.0)  # the first viewer pays for imports
    without, beside, redraws = [], [], []
    with console.status("Turns without and with viewers"):
        for _ in range(options.turns):
            without.append(_p99_ms(await _load(stack.base, bodies, options.rate, options.turn_s, options)))
            looked, outcomes = await asyncio.gather(
                watch(board, options.turn_s, viewers=options.viewers),
                _load(stack.base, bodies, options.rate, options.turn_s, options),
            )
            beside.append(_p99_ms(outcomes))
            redraws += [one for viewer in looked for one in viewer.seconds]
    with console.status("A viewer and a browser tab in overload"):
        async with open_tab(board) as tab:
            tab_early_mb, nodes_early = await tab.memory()
            (alone,), (shed, offered) = await asyncio.gather(
                watch(board, options.overload_s), _overload(stack.base, bodies, options)
            )
            tab_last_mb, nodes_last = await tab.memory()
    watching.cancel()
    ratios = [b / a for a, b in zip(without, beside, strict=True)]
    return {
        "viewers": options.viewers,
        "rate_per_s": options.rate,
        "turns": options.turns,
        "p99_without_ms": float(np.median(without)),
        "p99_with_ms": float(np.median(beside)),
        "p99_ratio": float(np.median(ratios)),
        "p99_ratio_min": min(ratios),
        "p99_ratio_max": max(ratios),
        "p99_noise": max(without) / min(without),
        "redraw_p95_ms": _quantile_ms(redraws, 95),
        "overload_offered_per_s": options.overload_rate,
        "overload_s": options.overload_s,
        "overload_shed": shed / offered,
        "overload_redraw_p50_ms": _quantile_ms(alone.seconds, 50),
        "overload_redraw_p95_ms": _quantile_ms(alone.seconds, 95),
        "exceptions_shown": alone.exceptions,
        "errors_in_tab": len(tab.errors),
        "tab_mb_early": tab_early_mb,
        "tab_mb_last": tab_last_mb,
        "tab_nodes_early": nodes_early,
        "tab_nodes_last": nodes_last,
        "board_mb_early": memory.early_mb,
        "board_mb_most": memory.most_mb,
        "board_mb_last": memory.last_mb,
    }


class _Memory:
    """Resident memory of a process over time, megabytes; `early` is that of the first minute."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self.early_mb = self.most_mb = self.last_mb = float("nan")

    async def watch(self) -> None:
        began = time.monotonic()
        while True:
            if self._status.exists():
                line = next(line for line in self._status.read_text().splitlines() if line.startswith("VmRSS"))
                self.last_mb = int(line.split()[1]) / 1e3
                self.most_mb = float(np.nanmax([self.most_mb, self.last_mb]))
                if time.monotonic() - began < 60:
                    self.early_mb = self.last_mb
            await asyncio.sleep(RSS_EVERY_S)


async def _overload(base: str, bodies: Sequence[bytes], options: BoardOptions) -> tuple[int, int]:
    """Requests shed and offered; in pieces, so that half an hour of them needs no memory."""
    shed, offered, until_s = 0, 0, time.monotonic() + options.overload_s
    while (left_s := until_s - time.monotonic()) > 0:
        outcomes = await _load(base, bodies, options.overload_rate, min(left_s, PIECE_S), options)
        shed += sum(one.status == 503 for one in outcomes)
        offered += len(outcomes)
    return shed, max(1, offered)


async def _load(
    base: str, bodies: Sequence[bytes], rate: float, seconds: float, options: BoardOptions
) -> list[Outcome]:
    async with connections(base, CONNECTIONS) as pool:
        return await open_loop(
            pool,
            lambda _: rate,
            lambda _, asked: bodies[asked % len(bodies)],
            seconds=seconds,
            deadline_ms=options.deadline_ms,
        )


def _p99_ms(outcomes: Sequence[Outcome]) -> float:
    return _quantile_ms([one.latency_s for one in outcomes if one.status == 200], 99)


def _quantile_ms(seconds: Sequence[float], percent: float) -> float:
    return float(np.percentile(seconds, percent)) * 1e3 if seconds else float("nan")
