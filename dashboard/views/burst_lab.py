"""The page that makes a burst: shape it, start it, watch it, and keep its report."""

from __future__ import annotations

import math
import time
from functools import lru_cache

import streamlit as st

from dashboard import alt, charts, connection, frames, report, style
from dashboard.answers import LoadSnapshot
from dashboard.burst import CLIMBS, CROWDS, FAULTS, RATE_MAX, SECONDS_MAX, BurstError, Plan, Run, missing
from dashboard.client import ApiError
from dashboard.views import admin, recommend, trouble

ANY = "drawn by popularity"
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
    rate = st.slider("Calm or mean rate, requests/s", 1, 200, 20, key="burst_rate")
    values = _values(shape)
    key = admin.key("burst_key") if shape in FAULTS else ""
    try:
        plan = Plan(shape=shape, rate=rate, **values)  # type: ignore[arg-type]
        st.caption(f"{plan.peak:g} requests/s at the peak (at most {RATE_MAX:g}), {plan.seconds:g} s in all.")
        start = st.button("Start", type="primary", icon=":material/play_arrow:", key="burst_start", width="stretch")
        if start:
            connection.lab().start(plan, url=connection.api_url(), tastes=connection.tastes(), key=key)
            st.rerun()
    except BurstError as error:
        st.error(str(error))


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
        values["crowd_s"] = st.slider(f"{named} lasts, s", 5, 40, 20, key="burst_crowd_s")
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
    st.button("Stop", icon=":material/stop:", key="burst_stop", on_click=connection.lab().stop)
    st.caption("One run at a time, whoever of the viewers started it.")
    board = connection.poller().look()
    newest = board.snapshots[-1].ts if board.snapshots else 0
    recent = [s for s in board.snapshots if s.ts > newest - 1_000 * (elapsed + 2)]
    if recent:
        _pictures(tuple(recent), elapsed, run.plan.seconds)


def _report(run: Run) -> None:
    if run.summary is None:
        st.error(f"**No result.** {run.error}", icon=":material/error:")
        return
    stopped = "Stopped early. " if run.stopped else ""
    st.html(f'<div class="story"><h2>{stopped}{report.headline(run)}</h2></div>')
    if (broken := report.broken_bounds(run.summary)) and not run.stopped:
        st.warning("Not within the usual bounds:\n" + "\n".join(f"- {one}" for one in broken), icon=":material/rule:")
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
    shown = (
        (
            "outcomes",
            frames.outcome_areas(queries),
            charts.outcomes(x),
            alt.series(queries, "queries per second", answered="answered", refused="refused"),
        ),
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
    )
    st.caption("The pictures show all that the engines did in that time, other traffic included.")
    for name, frame, spec, told in shown:
        style.chart(frame, {**spec, "height": 190}, key=f"burst_{name}", told=told)
