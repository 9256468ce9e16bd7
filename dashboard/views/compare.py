"""The page that asks the same query under two routing policies."""

from __future__ import annotations

from html import escape
from typing import Any

import streamlit as st

from dashboard import connection
from dashboard.answers import Comparison, RoutedAnswer
from dashboard.client import ApiError
from dashboard.moves import Moves, moves
from dashboard.views import recommend, trouble
from dashboard.views.steer import POLICY_NOTES

CALM = (
    "In calm, experts have slack, nothing is redirected, and policies that only act on overload give the same answer. "
    "Compare during a crowd, or with a policy that is blind to scores (`hash`), to see them differ."
)


def page() -> None:
    """Draw the page."""
    st.markdown("### Does the routing policy change what this user gets?")
    client = connection.client()
    try:
        known = client.router()
        popular = recommend.popular_items(client.base_url)
        ask, lists = st.columns([1, 3], gap="large")
        with ask:
            who, _ = recommend.who(client, popular)
            policies = _policies(known.policies or [known.policy], known.policy)
            k = st.slider("Items in the list", 1, 30, 10, key="compare_k")
            st.button("Ask again", icon=":material/refresh:", key="compare_again", width="stretch")
        with lists:
            _answers(client.compare({**who, "k": k}, policies))
    except ApiError as error:
        trouble.show(error)


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
