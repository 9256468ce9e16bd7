"""The live page: what queries want, what experts do, what the difference costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import streamlit as st

from dashboard import charts, connection, frames, style
from dashboard.answers import LoadSnapshot
from dashboard.poller import STALE_AFTER_S, WINDOW_S, Board
from dashboard.story import tell
from dashboard.views.steer import steer

EVERY = "1s"
ALL = "all engines"
HONEST = (
    "**Read this honestly.** On one device with a kernel that drops nothing, imbalance alone costs little. Balance "
    "pays because work becomes a static shape, and through stragglers once experts live on several devices. "
    "Redirecting changes answers, so the score kept stands next to the latency it buys."
)
TRY = """
curl -s {url}/v1/recommendations -H 'Content-Type: application/json' -d '{{"user_id": "u1", "k": 5}}'
"""


def page() -> None:
    """Draw the page; it then redraws itself every second."""
    _board()
    st.caption(HONEST)


@st.fragment(run_every=EVERY)
def _board() -> None:
    """Everything that moves. It does no I/O: the poller has the data."""
    board = connection.poller().look()
    with st.container(key="head", horizontal=True, vertical_alignment="top"):
        head = st.container(width="stretch")
        with st.container(horizontal=True, width="content"):
            engine, layer = _choice(board)
            steer(board.router)
    snapshots = [s for s in board.snapshots if engine in (ALL, s.engine)]
    rows = frames.queries(snapshots, layer)
    loads = frames.expert_loads(snapshots, layer)
    with head:
        worth_drawing = _headline(board, rows, loads)
    if worth_drawing:
        over_time, queries = frames.load_over_time(loads), frames.queries_over_time(rows)
        now = frames.load_now(loads)
        _numbers(snapshots, layer, now, queries)
        _first_screen(over_time, queries, now, frames.flow_ribbons(frames.flows_now(snapshots, layer)))
        _second_screen(over_time, queries)


def _choice(board: Board) -> tuple[str, int]:
    """Engine and MoE layer to show; asked only where there is a choice."""
    engine, layer = ALL, 0
    if len(board.engines) > 1:
        options = [ALL, *board.engines]
        engine = st.selectbox("Engine", options, key="live_engine", label_visibility="collapsed", width=150)
    layers = max((len(s.layers) for s in board.snapshots[-8:]), default=0)
    if layers > 1:
        names = [f"Layer {i + 1}" for i in range(layers)]
        picked = st.segmented_control(
            "MoE layer", names, default=names[0], required=True, key="live_layer", label_visibility="collapsed"
        )
        layer = names.index(picked) if picked in names else 0
    return engine, layer


def _headline(board: Board, rows: pl.DataFrame, loads: pl.DataFrame) -> bool:
    """The present in words: what is wrong, or what the load says. True if there is something to draw below."""
    step = str(rows["step"][-1]) if len(rows) else ""
    if board.version == 0:
        style.story("Connecting …", f"Asking {connection.api_url()} for the load of its experts.")
        return False
    if board.error is not None:
        style.story("Disconnected", f"{board.error}. Trying again every second; the board returns by itself.", bad=True)
        return len(rows) > 0
    if rows.is_empty():
        style.story("No engine reports", "The service answers, but no engine published its load. Is one running?")
        st.code(_try(), language="bash")
        return False
    if board.stale_s() > STALE_AFTER_S:
        what = (
            f"The newest load snapshot is {board.stale_s():.0f} s old, so what you see is the past: an engine stopped?"
        )
        style.story("Stale", what, bad=True)
        return True
    if loads["demand"].sum() == 0:
        style.story("No traffic yet", f"No query in the last {WINDOW_S:.0f} s. Send one and watch:", step=step)
        st.code(_try(), language="bash")
        return False
    kept = rows.filter(pl.col("ts") > pl.col("ts").max() - frames.PRESENT_MS)
    told = tell(frames.load_now(loads), score_kept=float(kept["score_kept"].mean() or 0.0))  # type: ignore[arg-type]
    style.story(told.title, told.text, step=step)
    return True


def _try() -> str:
    return TRY.format(url=connection.api_url()).strip()


def _numbers(snapshots: Sequence[LoadSnapshot], layer: int, now: pl.DataFrame, queries: pl.DataFrame) -> None:
    """The present in figures, each with its unit."""
    last, snapshot = queries.row(-1, named=True), snapshots[-1]
    if len(queries) > 1:
        last = queries.row(-2, named=True) | {name: queries[name][-1] for name in ("pressure", "queue")}
    demand, served = now["demand"], now["served"]
    moved = 100 * float(now["moved_in"].sum()) / max(float(served.sum()), 1e-9)
    tiles = [
        ("Answered, queries/s", f"{last['answered']:,.0f}", "Queries answered by the engines in time"),
        (
            "Refused · expired, /s",
            f"{last['refused']:,.0f} · {last['expired']:,.0f}",
            "Refused at once to protect accepted work; expired: the caller's deadline passed in the queue",
        ),
        (
            "Latency p50 · p99, ms",
            f"{last['p50']:,.1f} · {last['p99']:,.1f}",
            "From arrival at the engine to the answer",
        ),
        ("Queue, queries", f"{last['queue']:,} of {snapshot.queue_max:,}", "Waiting for a micro-batch, and the bound"),
        ("Pressure, ratio", f"{last['pressure']:.2f}", "Expected queueing delay ÷ latency budget left"),
        (
            "Busiest ÷ mean, ×",
            f"{_over_mean(demand):.1f} → {_over_mean(served):.2f}",
            "Load of the busiest expert ÷ mean load: as wished → as worked",
        ),
        ("Redirected, % of slots", f"{moved:.1f}", "Slots used by an expert that was not the token's own choice"),
        (
            "Score kept · gap, %",
            f"{last['score_kept']:.1f} · {last['certified_gap']:.2f}",
            "Gate score of the routes used relative to the free ones; and a certified bound on what the best "
            "assignment within the capacities could still gain",
        ),
    ]
    with st.container(key="numbers"):
        for column, (label, value, why) in zip(st.columns(len(tiles), gap="small"), tiles, strict=True):
            column.metric(label, value, help=why)


def _over_mean(load: pl.Series) -> float:
    mean = float(load.mean() or 0.0)  # type: ignore[arg-type]
    return float(load.max()) / mean if mean > 0 else 0.0  # type: ignore[arg-type]


def _first_screen(over_time: pl.DataFrame, queries: pl.DataFrame, now: pl.DataFrame, ribbons: pl.DataFrame) -> None:
    wanted, worked = st.columns(2)
    with wanted:
        _chart(over_time, charts.demand_heat(), 265, "heat_demand")
    with worked:
        _chart(over_time, charts.served_heat(), 265, "heat_served")
    bars, flows, latency = st.columns([5, 4, 5])
    with bars:
        _chart(now, charts.load_bars(), 255, "bars")
    with flows:
        _chart(ribbons, charts.flow_ribbons(), 255, "flows")
    with latency:
        _chart(frames.latency_lines(queries), charts.latency(), 255, "latency")


def _second_screen(over_time: pl.DataFrame, queries: pl.DataFrame) -> None:
    left, middle, right = st.columns(3)
    with left:
        _chart(frames.outcome_areas(queries), charts.outcomes(), 220, "outcomes")
        _chart(queries, charts.quality(), 200, "quality")
    with middle:
        _chart(queries, charts.pressure(), 220, "pressure")
        _chart(queries, charts.certified_gap(), 200, "gap")
    with right:
        _chart(frames.balance_over_time(over_time), charts.balance(), 220, "balance")
        _chart(over_time, charts.price_heat(), 200, "prices")


def _chart(data: pl.DataFrame, spec: dict[str, Any], height: int, key: str) -> None:
    """One chart that keeps its place: same key, same spec, other data."""
    st.vega_lite_chart(data, {**spec, "height": height}, key=f"chart_{key}", alt=spec["title"]["text"])
