"""Does the board slow the service, and does it stay alive itself? A real service in a burst, with and without viewers.

Turns without and with viewers alternate under the same open-model load, and every other pair begins with the viewers,
so that a disturbance or a drift of the machine falls on both. Viewers are sessions without a browser
(`dashboard.viewers`) in a process of their own: what a browser burns is its own machine's business, and what viewers
burn must not delay the load generator. Then comes the overload, with one viewer and one real tab, told by the minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from recsys.bench.board_tab import Tab, open_tab
from recsys.bench.burst import Questions, Service, switch
from recsys.bench.film import start_board
from recsys.bench.open_loop import Outcome, connections, open_loop
from recsys.stack.local import LocalStack

if TYPE_CHECKING:
    from dashboard.viewers import Redraws

CONNECTIONS = 512
PIECE_S = 10.0
LOOK_S = 5.0
MINUTE_S = 60.0
Row = dict[str, float | str]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardRun:
    """What was found: the row of the table, a row per minute of overload, and p99 (without, with) of each pair, ms."""

    row: Row
    minutes: list[Row]
    pairs: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Requests of some seconds of overload; `at_s` since it began."""

    at_s: float
    shed: int
    offered: int


async def measure_board(stack: LocalStack, world: Path, options: BoardOptions, console: Console) -> BoardRun:
    """p99 with viewers over p99 without, then redraw times and memory of the board and of a tab in overload."""
    board = start_board(stack)
    await switch(Service(stack.base, stack.admin_key), "price")
    bodies = [question.body for question in Questions.of(world, 0).calm]
    pid = stack.processes.pid("board")
    assert pid is not None, "it has just answered"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as elsewhere:
        await _watched(elsewhere, board, 5.0, 1)  # the first viewer pays for imports
        with console.status("Turns without and with viewers"):
            pairs, redraws = await _turns(elsewhere, board, stack.base, bodies, options)
        with console.status("A viewer and a browser tab in overload"):
            async with open_tab(board) as tab:
                pieces: list[_Piece] = []
                (alone,), _, minutes = await asyncio.gather(
                    _watched(elsewhere, board, options.overload_s, 1),
                    _overload(stack.base, bodies, options, pieces),
                    _by_the_minute(tab, pid, options.overload_s),
                )
    for minute in minutes:
        minute |= _of_minute(float(minute["minute"]), alone, pieces)
    return BoardRun(row=_summary(options, pairs, redraws, alone, minutes, tab), minutes=minutes, pairs=pairs)


async def _turns(
    elsewhere: ProcessPoolExecutor, board: str, base: str, bodies: Sequence[bytes], options: BoardOptions
) -> tuple[list[tuple[float, float]], list[float]]:
    """p99 without and with viewers of each pair, ms, and the seconds that the viewers' redraws took."""
    pairs, redraws = [], []
    for turn in range(options.turns):
        p99_ms = [0.0, 0.0]
        for viewers in (0, options.viewers) if turn % 2 == 0 else (options.viewers, 0):
            load = _load(base, bodies, options.rate, options.turn_s, options)
            if viewers:
                looked, outcomes = await asyncio.gather(_watched(elsewhere, board, options.turn_s, viewers), load)
                redraws += [one for viewer in looked for one in viewer.seconds]
            else:
                outcomes = await load
            p99_ms[viewers > 0] = _quantile_ms([one.latency_s for one in outcomes if one.status == 200], 99)
        pairs.append((p99_ms[0], p99_ms[1]))
    return pairs, redraws


def _summary(
    options: BoardOptions,
    pairs: Sequence[tuple[float, float]],
    redraws: Sequence[float],
    alone: Redraws,
    minutes: Sequence[Row],
    tab: Tab,
) -> Row:
    ratios = [beside / without for without, beside in pairs]
    calm = [without for without, _ in pairs]

    def of(name: str) -> list[float]:
        return [float(minute[name]) for minute in minutes]

    return {
        "viewers": options.viewers,
        "rate_per_s": options.rate,
        "turns": options.turns,
        "p99_without_ms": float(np.median(calm)),
        "p99_with_ms": float(np.median([beside for _, beside in pairs])),
        "p99_ratio": float(np.median(ratios)),
        "p99_ratio_min": min(ratios),
        "p99_ratio_max": max(ratios),
        "p99_noise": max(calm) / min(calm),
        "redraw_p95_ms": _quantile_ms(redraws, 95),
        "overload_offered_per_s": options.overload_rate,
        "overload_s": options.overload_s,
        "overload_shed": sum(of("shed")) / max(1.0, sum(of("offered"))),
        "overload_redraw_p50_ms": _quantile_ms(alone.seconds, 50),
        "overload_redraw_p95_ms": _quantile_ms(alone.seconds, 95),
        "overload_redraw_max_ms": _quantile_ms(alone.seconds, 100),
        "exceptions_shown": alone.exceptions,
        "errors_in_tab": len(tab.errors),
        "tab_looks": sum(of("looks")),
        "tab_looks_in_trouble": sum(of("looks_in_trouble")),
        "tab_refresh_max_s": max(of("tab_refresh_max_s")),
        "tab_mb_first": of("tab_mb")[0],
        "tab_mb_last": of("tab_mb")[-1],
        "tab_mb_per_hour": _per_hour(of("tab_mb")),
        "tab_nodes_last": of("tab_nodes")[-1],
        "board_mb_first": of("board_mb")[0],
        "board_mb_last": of("board_mb")[-1],
        "board_mb_per_hour": _per_hour(of("board_mb")),
    }


async def _by_the_minute(tab: Tab, pid: int, seconds: float) -> list[Row]:
    """Memory of board and tab, how often the tab's figures change, and how often its headline tells of trouble."""
    began, rows = time.monotonic(), []
    minutes = max(1, round(seconds / MINUTE_S))
    await tab.gaps_s()
    for minute in range(minutes):
        troubles, ends = [], began + seconds * (minute + 1) / minutes
        while (left_s := ends - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, LOOK_S))
            troubles.append(await tab.trouble())
        gaps = await tab.gaps_s()
        tab_mb, nodes = await tab.memory()
        rows.append(
            Row(
                minute=float(minute),
                board_mb=_resident_mb(pid),
                tab_mb=tab_mb,
                tab_nodes=nodes,
                tab_refresh_p50_s=float(np.median(gaps)),
                tab_refresh_max_s=max(gaps),
                looks=len(troubles),
                looks_in_trouble=len([one for one in troubles if one]),
                trouble=" ".join(sorted({one for one in troubles if one})),
            )
        )
    return rows


def _of_minute(minute: float, alone: Redraws, pieces: Sequence[_Piece]) -> Row:
    """The viewer's redraws and the requests of one minute."""
    took = [one for at, one in zip(alone.at_s, alone.seconds, strict=True) if at // MINUTE_S == minute]
    sent = [piece for piece in pieces if piece.at_s // MINUTE_S == minute]
    return {
        "redraws": len(took),
        "redraw_p50_ms": _quantile_ms(took, 50),
        "redraw_p95_ms": _quantile_ms(took, 95),
        "offered": sum(piece.offered for piece in sent),
        "shed": sum(piece.shed for piece in sent),
    }


def _resident_mb(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1e3


def _per_hour(by_minute: Sequence[float]) -> float:
    """Growth per hour in the second half, by least squares; nan if there is too little of it."""
    late = by_minute[len(by_minute) // 2 :]
    return float(np.polyfit(range(len(late)), late, 1)[0]) * 60 if len(late) > 2 else float("nan")


async def _watched(elsewhere: ProcessPoolExecutor, board: str, seconds: float, viewers: int) -> list[Redraws]:
    return await asyncio.get_running_loop().run_in_executor(elsewhere, _watch, board, seconds, viewers)


def _watch(board: str, seconds: float, viewers: int) -> list[Redraws]:
    from dashboard.viewers import watch

    return asyncio.run(watch(board, seconds, viewers=viewers))


async def _overload(base: str, bodies: Sequence[bytes], options: BoardOptions, pieces: list[_Piece]) -> None:
    """In pieces, so that half an hour of requests needs no memory."""
    began = time.monotonic()
    while (at_s := time.monotonic() - began) < options.overload_s:
        seconds = min(options.overload_s - at_s, PIECE_S)
        outcomes = await _load(base, bodies, options.overload_rate, seconds, options)
        pieces.append(_Piece(at_s, sum(one.status == 503 for one in outcomes), len(outcomes)))


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


def _quantile_ms(seconds: Sequence[float], percent: float) -> float:
    return float(np.percentile(seconds, percent)) * 1e3 if seconds else float("nan")
