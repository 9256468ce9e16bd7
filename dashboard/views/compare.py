"""The page that asks the same under two routing policies: one query, or the traffic of the last minute."""

from __future__ import annotations

from html import escape
from typing import Any

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import connection
from dashboard.answers import Comparison, RoutedAnswer, RoutedTraffic, TrafficComparison
from dashboard.client import ApiError, Client, RefusedError
from dashboard.moves import Moves, moves
from dashboard.views import admin, recommend, trouble
from dashboard.views.steer import POLICY_NOTES

CALM = (
    "In calm, experts have slack, nothing is redirected, and policies that only act on overload give the same answer. "
    "Compare during a crowd, or with a policy that is blind to scores (`hash`), to see them differ."
)


ONE, TRAFFIC = "One query", "The last minute of traffic"
SECONDS, MOST = 60.0, 64


def page() -> None:
    """Draw the page."""
    st.markdown("### Does the routing policy change what users get?")
    client = connection.client()
    try:
        known = client.router()
        ask, shown = st.columns([1, 3], gap="large")
        with ask:
            what = st.segmented_control("Compare", [ONE, TRAFFIC], default=ONE, required=True, key="compare_what")
            policies = _policies(known.policies or [known.policy], known.policy)
        if what == TRAFFIC:
            _traffic(client, policies, ask, shown)
        else:
            _one_query(client, policies, ask, shown)
    except ApiError as error:
        trouble.show(error)
    else:
        trouble.watch()


def _one_query(client: Client, policies: tuple[str, str], ask: DeltaGenerator, shown: DeltaGenerator) -> None:
    with ask:
        who, _ = recommend.who(client, recommend.popular_items(client.base_url))
        k = st.slider("Items in the list", 1, 30, 10, key="compare_k")
        st.button("Ask again", icon=":material/refresh:", key="compare_again", width="stretch")
    with shown:
        _answers(client.compare({**who, "k": k}, policies))


def _traffic(client: Client, policies: tuple[str, str], ask: DeltaGenerator, shown: DeltaGenerator) -> None:
    """Ask when told to, for it costs the service some queries; keep what it said."""
    with ask:
        key = admin.key("compare_key")
        start = st.button("Compare now", type="primary", icon=":material/compare_arrows:", key="compare_now")
    with shown:
        if start and not key:
            st.error(admin.NO_KEY)
        elif start:
            try:
                with st.spinner("Asking the last minute again, twice …"):
                    st.session_state["traffic"] = client.compare_traffic(policies, seconds=SECONDS, most=MOST, key=key)
            except RefusedError as error:
                if not error.wrong_key:
                    raise
                st.error(admin.WRONG_KEY)
        told: TrafficComparison | None = st.session_state.get("traffic")
        if told is None:
            st.info(
                f"Up to {MOST} queries of the last {SECONDS:.0f} s are asked again, first all under one policy and "
                "then under the other, behind the present traffic.",
                icon=":material/compare_arrows:",
            )
        else:
            _told(told)


def _told(told: TrafficComparison) -> None:
    title, text = traffic_summary(told)
    st.html(f'<div class="story"><h2>{escape(title)}</h2><p>{escape(text)}</p></div>')
    if told.asked:
        st.dataframe(_traffic_table(told.first, told.second), hide_index=True, height="content")
        if set(told.first.steps) | set(told.second.steps) == {"calm"}:
            st.caption(CALM)


def traffic_summary(told: TrafficComparison) -> tuple[str, str]:
    """The difference in a headline and a sentence."""
    if not told.asked:
        return "No traffic in the last minute", "Nothing was asked of this service, so there is nothing to compare."
    if not told.compared:
        return "No query was answered by both", "The service refused them: it has no room beside its present traffic."
    return (
        f"{told.same:.0%} of the lists are the same",
        f"{told.compared} of {told.kept} queries were compared. Lists share {told.overlap:.0%} of their items on "
        f"average; {told.first_item_same:.0%} have the same first item.",
    )


def _traffic_table(first: RoutedTraffic, second: RoutedTraffic) -> pl.DataFrame:
    """One row per figure, one column per policy."""
    columns: dict[str, list[str]] = {
        "": [
            "gate score kept, %",
            "slots redirected, %",
            "micro-batch p50, ms",
            "micro-batch p99, ms",
            "answered · refused, queries",
            "steps of the ladder, answers",
        ]
    }
    again = " (again)" if first.policy == second.policy else ""
    for side, name in ((first, first.policy), (second, second.policy + again)):
        columns[name] = [
            f"{100 * side.score_kept:.2f}",
            f"{100 * side.redirected:.1f}",
            f"{side.compute_ms_p50:.1f}",
            f"{side.compute_ms_p99:.1f}",
            f"{side.answered} · {side.refused}",
            ", ".join(f"{step} {n}" for step, n in side.steps.items()) or "–",
        ]
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def _policies(names: list[str], live: str) -> tuple[str, str]:
    """Two to choose: plain top-k, and the one that is live."""

    def note(name: str) -> str:
        return f"{name}: {POLICY_NOTES[name]}" if name in POLICY_NOTES else name

    first = names.index("topk") if "topk" in names else 0
    second = names.index(live) if live in names and live != names[first] else (first + 1) % len(names)
    return (
        st.selectbox("First policy", names, index=first, format_func=note, key="compare_first"),
        st.selectbox("Second policy", names, index=second, format_func=note, key="compare_second"),
    )


def _answers(told: Comparison) -> None:
    title, text = summary(told)
    st.html(f'<div class="story"><h2>{escape(title)}</h2><p>{escape(text)}</p></div>')
    ids = [[item.item_id for item in answer.items] for answer in (told.first, told.second)]
    left, right = st.columns(2, gap="medium")
    with left:
        _list(told.first, moves(ids[0], ids[0]), gone=set(ids[0]) - set(ids[1]))
    with right:
        _list(told.second, moves(ids[0], ids[1]), gone=set())
    if told.first.degraded.step == told.second.degraded.step == "calm":
        st.caption(CALM)


def summary(told: Comparison) -> tuple[str, str]:
    """The difference in a headline and a sentence."""
    d, first, second = told.difference, told.first, told.second
    if first.policy == second.policy and not (d.came or d.went or d.moved):
        title = "The same policy twice: the same list"
    elif not (d.came or d.went or d.moved):
        title = "The same items in the same order"
    elif d.came or d.went:
        most = max(len(first.items), len(second.items))
        title = f"{max(len(d.came), len(d.went))} of {most} items differ, {len(d.moved)} moved"
    else:
        title = f"The same items, {len(d.moved)} of them moved"
    kept = f"{first.policy} keeps {first.degraded.score_kept:.1%} of the gate score, "
    kept += f"{second.policy} {second.degraded.score_kept:.1%}. "
    times = f"The engine took {first.timing.compute_ms:.1f} and {second.timing.compute_ms:.1f} ms."
    return title, kept + times


def _list(answer: RoutedAnswer, changed: Moves, gone: set[str]) -> None:
    degraded, timing = answer.degraded, answer.timing
    st.markdown(f"**{answer.policy}**")
    st.caption(
        f"step **{degraded.step}** · **{degraded.score_kept:.2%}** of gate score kept · {degraded.redirected:.0%} of "
        f"slots redirected · **{timing.compute_ms:.1f} ms** in the engine, {timing.total_ms:.1f} ms in all"
    )
    cards = "".join(_card(rank, item, changed, gone) for rank, item in enumerate(answer.items, start=1))
    st.html(f'<div class="items">{cards}</div>' if cards else "<p>No item.</p>")


def _card(rank: int, item: Any, changed: Moves, gone: set[str]) -> str:
    mark, places = "", changed.places.get(item.item_id, 0)
    if item.item_id in gone:
        mark = '<span class="move gone">only here</span>'
    elif item.item_id in changed.came:
        mark = '<span class="move new">only here</span>'
    elif places:
        way, arrow = ("up", "▲") if places > 0 else ("down", "▼")
        mark = f'<span class="move {way}" title="places {way}">{arrow} {abs(places)}</span>'
    return (
        f'<div class="item"><span class="rank">{rank}</span><span class="title">'
        f"{escape(item.title or item.item_id)}</span>{mark}"
        f'<span class="small">{escape(", ".join(item.categories))} · score {item.score:.3f}</span></div>'
    )
