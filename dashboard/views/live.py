"""The live page: what queries want, what experts do, what the difference costs."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import polars as pl
import streamlit as st

from dashboard import alt, charts, connection, frames, style
from dashboard.poller import STALE_AFTER_S, WINDOW_S, Board
from dashboard.story import WORTH_SAYING, shedding, tell
from dashboard.views.steer import returned, steer

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
    picture = _picture(board, engine, layer) if board.snapshots else None
    with head:
        worth_drawing = _headline(board, picture)
        if told := returned(board.router):
            st.warning(told, icon=":material/undo:")
    if worth_drawing and picture is not None:
        with st.container(key="picture"):
            with_api = engine == ALL and board.system is not None
            _numbers(board.snapshots[-1].queue_max, picture, with_api=with_api)
            _first_screen(picture)
            _second_screen(picture, with_api=with_api)


@lru_cache(maxsize=8)
def _picture(board: Board, engine: str, layer: int) -> frames.Picture:
    """Made once per poll and choice, for all viewers."""
    some = [s for s in board.snapshots if engine in (ALL, s.engine)]
    return frames.picture(some, layer, board.calls if engine == ALL else ())


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


def _headline(board: Board, picture: frames.Picture | None) -> bool:
    """The present in words: what is wrong, or what the load says. True if there is something to draw below."""
    if board.version == 0:
        style.story("Connecting …", f"Asking {connection.api_url()} for the load of its experts.")
        return False
    if board.error is not None:
        style.story("Disconnected", f"{board.error}. Trying again every second; the board returns by itself.", bad=True)
        return picture is not None and not picture.over_time.is_empty()
    if picture is None:
        style.story("No engine reports", "The service answers, but no engine published its load. Is one running?")
        return False
    if board.stale_s() > STALE_AFTER_S:
        age = (
            f"The newest load snapshot is {board.stale_s():.0f} s old, so what you see is the past. Did an engine stop?"
        )
        style.story("Stale", age, bad=True)
        return not picture.over_time.is_empty()
    last = picture.queries.row(-1, named=True)
    if picture.over_time.is_empty():
        style.story("No traffic yet", f"No query in {WINDOW_S:.0f} s. Send one and watch:", step=last["step"])
        st.code(TRY.format(url=connection.api_url()).strip(), language="bash")
        return False
    shed = _shed_share(last)
    told = shedding(tell(picture.now, score_kept=last["score_kept"] / 100), shed)
    style.story(told.title, told.text, step="shed" if shed >= WORTH_SAYING else last["step"])
    return True


def _shed_share(last: dict[str, float]) -> float:
    """Share of the queries that were refused at once, of a row of `frames.queries_over_time`."""
    shed = last["shed_engines"] + last["shed_api"]
    return shed / max(last["answered"] + shed + last["late_or_failed"], 1e-9)


def _numbers(queue_max: int, picture: frames.Picture, *, with_api: bool) -> None:
    """The present in figures, each with its unit."""
    last, now = picture.queries.row(-1, named=True), picture.now
    demand, served = now["demand"], now["served"]
    moved = 100 * float(now["moved_in"].sum()) / max(float(served.sum()), 1e-9)
    tiles = [
        ("Answered, queries/s", f"{last['answered']:,.0f}", "Queries answered by the engines in time"),
        (
            "Shed · late, queries/s",
            f"{last['shed_engines'] + last['shed_api']:,.0f} · {last['late_or_failed']:,.0f}",
            "Shed: refused at once to protect accepted work, "
            + ("by the API before it reads the request and by the engines" if with_api else "by the engines alone")
            + ". Late: the caller's deadline passed in the queue, or an engine failed",
        ),
        (
            "Latency p50 · p99, ms",
            f"{last['p50']:,.1f} · {last['p99']:,.1f}",
            "From arrival at the engine to the answer",
        ),
        ("Queue, queries", f"{last['queue']:,} of {queue_max:,}", "Waiting for a micro-batch, and the bound"),
        (
            "Pressure, ratio",
            f"{last['pressure']:.2f}",
            "Delay in the queue ÷ delay allowed (RECSYS_ENGINE__WAIT_MAX_MS); 1 while queries are refused",
        ),
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


def _first_screen(picture: frames.Picture) -> None:
    wanted, worked = st.columns(2)
    with wanted:
        _chart(
            picture.over_time, charts.demand_heat(), 265, "heat_demand", alt.heat(picture.over_time, "demand", "demand")
        )
    with worked:
        _chart(
            picture.over_time,
            charts.served_heat(),
            265,
            "heat_served",
            alt.heat(picture.over_time, "served", "served load"),
        )
    bars, flows, latency = st.columns([5, 4, 5])
    with bars:
        _chart(picture.now, charts.load_bars(), 255, "bars", alt.bars(picture.now))
    with flows:
        _chart(picture.ribbons, charts.flow_ribbons(), 255, "flows", alt.flows(picture.ribbons))
    with latency:
        _chart(
            frames.latency_lines(picture.queries),
            charts.latency(),
            255,
            "latency",
            alt.series(picture.queries, "milliseconds", p50="p50", p99="p99"),
        )


def _second_screen(picture: frames.Picture, *, with_api: bool) -> None:
    left, middle, right = st.columns(3)
    with left:
        _chart(
            frames.outcome_areas(picture.queries),
            charts.outcomes(with_api=with_api),
            220,
            "outcomes",
            alt.series(
                picture.queries,
                "queries per second",
                answered="answered",
                shed_engines="shed by engines",
                shed_api="shed by the API",
            ),
        )
        _chart(
            picture.queries,
            charts.quality(),
            200,
            "quality",
            alt.series(picture.queries, "percent", score_kept="score kept"),
        )
    with middle:
        _chart(picture.queries, charts.pressure(), 220, "pressure", alt.steps(picture.queries))
        _chart(
            picture.queries,
            charts.certified_gap(),
            200,
            "gap",
            alt.series(picture.queries, "percent", certified_gap="certified gap"),
        )
    with right:
        balance = frames.balance_over_time(picture.over_time)
        _chart(
            frames.balance_lines(balance),
            charts.balance(),
            220,
            "balance",
            alt.series(balance, "times the mean", wanted="wanted", worked="worked"),
        )
        _chart(
            picture.over_time,
            charts.price_heat(),
            200,
            "prices",
            alt.series(_dearest(picture.over_time), "score units", price="highest price"),
        )


def _dearest(over_time: pl.DataFrame) -> pl.DataFrame:
    return over_time.group_by("start").agg(pl.col("price").max())


def _chart(data: pl.DataFrame, spec: dict[str, Any], height: int, key: str, told: str) -> None:
    """One chart that keeps its place: same key, same spec, other data; `told` says in words what it shows."""
    style.chart(data, {**spec, "height": height}, key=f"chart_{key}", told=told)
