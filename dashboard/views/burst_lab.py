"""The page that makes a burst: shape it, start it, watch it, and keep its report."""

from __future__ import annotations

import math
import time
from functools import lru_cache

import polars as pl
import streamlit as st

from dashboard import alt, charts, connection, frames, report, story, style
from dashboard.answers import LoadSnapshot
from dashboard.burst import CLIMBS, CROWDS, FAULTS, RATE_MAX, SECONDS_MAX, BurstError, Plan, Run, missing
from dashboard.client import ApiError
from dashboard.poller import Board
from dashboard.views import admin, recommend, trouble

ANY = "drawn by popularity"
DEVICES = (
    "On one device experts share the arithmetic, and a crowd on few of them costs little. Emulated, each expert has a "
    "device that takes this long for each of its slots, all side by side: a step really waits for its fullest expert, "
    "as where a model is spread over machines. It ends with the run."
)
STORY = """
**One minute, with one device per expert**
1. With **One device per expert** switched on (it needs the admin key) press **Start**. Ten seconds are calm.
2. The crowd comes: few experts light up in the left picture; in the right one their work is with others.
3. **Flip to plain top-k**: work piles up, every step waits for its fullest expert, and p99 rises.
4. **Flip back**: p99 falls. At the end stands a report of both.
"""
PLAIN = "topk"
NAMES = {
    "flash_crowd": "Flash crowd on a category",
    "hot_item": "Hot item",
    "step": "Steps up",
    "diurnal": "A day in short",
    "self_exciting": "Self-exciting",
    "slow_expert": "Slow expert",
    "dead_expert": "Dead expert",
    "replay": "Real events",
    "steady": "Steady",
}
NOTES = {
    "hot_item": "Everybody comes by the same item, drawn by popularity, and asks for what follows.",
    "step": "Five levels from the calm rate to the peak: where does the service stop keeping up?",
    "diurnal": "From the quiet of the night to the evening's peak and back.",
    "self_exciting": "Every request brings others after it (a Hawkes process): bursts that nobody planned.",
    "slow_expert": "Engines really wait for the expert in the middle of the run, and should route around it.",
    "dead_expert": "The expert does not answer in the middle of the run; the service should.",
    "replay": "Real events at their own rhythm, but faster: a query by each event's user, then the event.",
}


def page() -> None:
    """Draw the page; progress redraws itself every second."""
    st.markdown("### How does the service take a burst?")
    if lack := missing(connection.tastes()):
        st.info("**No load can be made from here.**\n\n" + "\n".join(f"- {line}" for line in lack))
        st.caption("`make demo` starts the board with all of it. On the command line: `python -m loadtest --help`.")
        return
    trouble.watch()
    ask, shown = st.columns([1, 3], gap="large")
    with ask:
        _form()
    with shown:
        _state()


def _form() -> None:
    shape = st.selectbox("Shape", list(NAMES), format_func=lambda name: NAMES[name], key="burst_shape")
    if note := NOTES.get(shape):
        st.caption(note)
    lane_us = _devices(shape)
    if lane_us:  # they do the work of a few dozen queries a second
        rate = st.slider("Calm or mean rate, requests/s", 1, 40, 4, key="burst_rate_devices")
    else:
        rate = st.slider("Calm or mean rate, requests/s", 1, 200, 50, key="burst_rate")
    values = _values(shape) | {"lane_us": lane_us}
    key = admin.key("burst_key")
    if not key:
        st.caption("Needed for one device per expert, for a sick expert, and for the flip to another policy.")
    try:
        plan = Plan(shape=shape, rate=rate, **values)  # type: ignore[arg-type]
        st.caption(f"{plan.peak:g} requests/s at the peak (at most {RATE_MAX:g}), {plan.seconds:g} s in all.")
        start = st.button("Start", type="primary", icon=":material/play_arrow:", key="burst_start", width="stretch")
        if start:
            connection.lab().start(plan, url=connection.api_url(), tastes=connection.tastes(), key=key)
            st.session_state.pop("burst_outcome", None)
            st.rerun()
    except BurstError as error:
        st.error(str(error))
    except ApiError as error:
        st.error(admin.explain(error, "Not started"))


def _devices(shape: str) -> float:
    """Microseconds a slot takes on the emulated device of its expert; 0 = all experts share the one there is."""
    of_a_crowd = shape in CROWDS
    wanted = of_a_crowd and bool(connection.configured_key())
    if not st.toggle("One device per expert (emulated)", value=wanted, key=f"burst_devices_{of_a_crowd}"):
        return 0.0
    lane_us = float(st.slider("Each takes, µs per slot", 10, 200, 60, 10, key="burst_lane_us"))
    st.caption(DEVICES)
    return lane_us


def _values(shape: str) -> dict[str, float | str]:
    """What the shape can be told."""
    values: dict[str, float | str] = {}
    if shape in CROWDS | CLIMBS:
        values["crowd_factor"] = st.slider("Peak, × the calm rate", 2, 20, 10, key="burst_factor")
    if shape in FAULTS:
        values["expert"] = int(st.number_input("Expert", 0, 255, 0, key="burst_expert"))
    if shape == "slow_expert":
        values["slow_us"] = st.slider("Slower by, µs per slot", 5, 500, 50, 5, key="burst_slow_us")
    if shape in CROWDS | FAULTS:
        named = "Crowd" if shape in CROWDS else "Fault"
        values["crowd_s"] = st.slider(f"{named} lasts, s", 5, 40, 30, key="burst_crowd_s")
        values["around_s"] = st.slider("Calm before and after, s", 5, 30, 10, key="burst_around_s")
    else:
        values["around_s"] = st.slider("Length, s", 5, int(SECONDS_MAX), 30, key="burst_length")
    if shape == "flash_crowd":
        picked = st.selectbox("Category of the crowd", [ANY, *_categories()], key="burst_category")
        values["category"] = "" if picked == ANY else picked
    if shape == "replay":
        values["events_file"] = connection.events_file()
    return values


def _categories() -> list[str]:
    try:
        popular = recommend.popular_items(connection.api_url())
    except ApiError:
        return []
    return sorted({category for item in popular for category in item.categories})


@st.fragment(run_every="1s")
def _state() -> None:
    """The run as it is now, or the report of the last one."""
    run = connection.lab().run()
    if run is None:
        st.info(STORY.strip(), icon=":material/timer:")
        st.info(
            "Nothing ran yet. A run offers requests at their due times whatever the answers (an open model), and "
            "ends with a table of before, during and after.",
            icon=":material/science:",
        )
    elif run.going_on:
        _progress(run)
    else:
        _report(run)


def _progress(run: Run) -> None:
    elapsed = time.monotonic() - run.began
    phase = run.plan.phase_at(elapsed)
    rate = f"{run.plan.peak if phase == 'during' else run.plan.rate:g}"
    if run.plan.shape in CLIMBS:
        rate = f"{run.plan.rate:g} to {run.plan.peak:g}"
    told = f"**{phase}**, {rate} requests/s offered" if phase != "ending" else "**ending**: the last answers come in"
    st.progress(min(1.0, elapsed / run.plan.seconds), f"{told} · {elapsed:.0f} of {run.plan.seconds:.0f} s")
    board = connection.poller().look()
    _steer(run, phase, board)
    newest = board.snapshots[-1].ts if board.snapshots else 0
    recent = [s for s in board.snapshots if s.ts > newest - 1_000 * (elapsed + 2)]
    if recent:
        _pictures(tuple(recent), elapsed, run.plan.seconds)


def _steer(run: Run, phase: str, board: Board) -> None:
    """What to look at, the flip to the other policy, and the end of it."""
    policy = board.router.policy if board.router else run.policy
    if run.plan.shape in CROWDS:
        st.markdown(story.guide(phase, policy=policy, lane_us=run.plan.lane_us))
    other, label = PLAIN, "Flip to plain top-k"
    if policy == PLAIN:
        before = run.policy not in ("", PLAIN)
        other, label = (run.policy, f"Flip back to {run.policy}") if before else ("price", "Flip to price")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(label, icon=":material/swap_vert:", type="primary", key="burst_flip", on_click=_flip, args=(other,))
        st.button("Stop", icon=":material/stop:", key="burst_stop", on_click=connection.lab().stop)
        routed = f" Now **{policy}** routes." if policy else ""
        st.caption(f"One run at a time, whoever of the viewers started it.{routed}")
    admin.tell(*st.session_state.get("burst_outcome", ("", "")))


def _flip(policy: str) -> None:
    """Ask the service to route by another policy."""
    st.session_state.pop("burst_outcome", None)
    key = admin.typed_key("burst_key")
    try:
        if not key:
            raise BurstError(admin.NO_KEY)
        connection.client().set_router(policy=policy, key=key)
        connection.poller().refresh()
    except (ApiError, BurstError) as error:
        told = admin.explain(error, "Not switched") if isinstance(error, ApiError) else str(error)
        st.session_state["burst_outcome"] = ("error", told)


def _report(run: Run) -> None:
    if run.summary is None:
        st.error(f"**No result.** {run.error}", icon=":material/error:")
        return
    stopped = "Stopped early. " if run.stopped else ""
    st.html(f'<div class="story"><h2>{stopped}{report.headline(run)}</h2></div>')
    if (broken := report.broken_bounds(run.summary)) and not run.stopped:
        st.warning("Not within the usual bounds:\n" + "\n".join(f"- {one}" for one in broken), icon=":material/rule:")
    if run.plan.lane_us:
        st.caption(report.EMULATED.format(run.plan.lane_us))
    if not (policies := report.by_policy(run)).is_empty():
        st.markdown("**During the crowd, by policy**" if run.plan.shape in CROWDS else "**In the middle, by policy**")
        st.dataframe(policies, hide_index=True, height="content")
    st.dataframe(report.phase_table(run.summary), hide_index=True, height="content")
    st.download_button(
        "Save as one html file",
        _html(run),
        file_name="burst.html",
        mime="text/html",
        icon=":material/download:",
        on_click="ignore",
        key="burst_save",
    )
    if run.snapshots:
        elapsed = run.elapsed_s or run.plan.seconds
        _pictures(run.snapshots, elapsed, max(elapsed, run.plan.seconds))


@lru_cache(maxsize=2)
def _html(run: Run) -> str:
    return report.html(run)


def _pictures(snapshots: tuple[LoadSnapshot, ...], seconds: float, whole: float) -> None:
    """What the engines did in the first `seconds` of a run that is `whole` seconds long."""
    picture = frames.picture(snapshots, 0)
    x = charts.run_seconds(10 * math.ceil(whole / 10))
    queries = report.in_run(picture.queries, seconds)
    balance = report.in_run(frames.balance_over_time(picture.over_time), seconds)
    loads = report.in_run(picture.over_time, seconds).with_columns(pl.col("end") + seconds)
    shown = (
        ("wanted", loads, charts.demand_heat(x), alt.heat(picture.over_time, "demand", "demand")),
        ("worked", loads, charts.served_heat(x), alt.heat(picture.over_time, "served", "served load")),
        (
            "latency",
            frames.latency_lines(queries),
            charts.latency(x),
            alt.series(queries, "milliseconds", p50="p50", p99="p99"),
        ),
        (
            "balance",
            frames.balance_lines(balance),
            charts.balance(x),
            alt.series(balance, "times the mean", wanted="wanted", worked="worked"),
        ),
        (
            "outcomes",
            frames.outcome_areas(queries),
            charts.outcomes(x),
            alt.series(queries, "queries per second", answered="answered", refused="refused"),
        ),
    )
    for row in (shown[:2], shown[2:4], shown[4:]):
        for column, (name, frame, spec, told) in zip(st.columns(len(row)), row, strict=True):
            with column:
                style.chart(frame, {**spec, "height": 190}, key=f"burst_{name}", told=told)
    st.caption("The pictures show all that the engines did in that time, other traffic included.")
