"""The page about each expert: what it has specialised in, from explained queries, and what it does now."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dashboard import charts, connection, expert_history, expert_users, specialisation, style
from dashboard.answers import ExpertUsers, Recommendations
from dashboard.client import ApiError, Client
from dashboard.views import trouble

SAMPLE = 24  # queries, each by somebody who used one popular item
ITEMS = 30
FRESH_S = 120.0
ABOUT = (
    "Load snapshots count slots and do not know for which items, so this page asks. It takes the most popular items of "
    "every category in turn, and for each asks for recommendations to somebody who used that item only ({n} queries of "
    "low priority, {items} items each, with `explain`). A category counts for an expert by its gate weights. The "
    "sample stays for two minutes."
)
ABOUT_USERS = (
    "{answered} of {asked} users who asked within two minutes, asked about again with `explain` and low priority, at "
    "most twice a minute. A user is of the category that the newest twenty items of the history are most about. Nobody "
    "is named."
)

_EXPERT = st.column_config.NumberColumn("expert", format="E%d", width=55)


class UnexplainedError(ApiError):
    """The sample says nothing of experts: it came from the fallback, or there is no item."""


def page() -> None:
    """Draw the page."""
    head, again = st.columns([7, 1], vertical_alignment="bottom")
    head.markdown("### What has each expert specialised in?")
    if again.button("Ask again", icon=":material/refresh:", key="experts_again"):
        _sample.clear()
    try:
        with st.spinner("Asking a sample of queries …"):
            answers = _sample(connection.api_url())
    except ApiError as error:
        trouble.show(error)
        return
    trouble.watch()
    used = specialisation.uses(answers)
    layers = int(used["layer"].max()) + 1  # type: ignore[arg-type]
    names = [f"Layer {i + 1}" for i in range(layers)]
    for layer, tab in enumerate(st.tabs(names) if layers > 1 else [st.container()]):
        with tab:
            _specialised(used, layer)
            _users(layer)
            _now(layer)
    st.caption(ABOUT.format(n=len(answers), items=ITEMS))


def _specialised(used: pl.DataFrame, layer: int) -> None:
    heat = specialisation.by_category(used, layer)
    table = specialisation.by_expert(used, layer)
    left, right = st.columns([1, 1], gap="medium")
    with left:
        spec = charts.specialisation_heat()
        height = 70 + 22 * heat["category"].n_unique()
        alt = charts.describe_specialisation(table)
        style.chart(heat, {**spec, "height": height}, key=f"specialised_{layer}", told=alt)
    with right:
        st.markdown("**In words**")
        _table(
            table,
            categories=st.column_config.TextColumn("more than its share of", width="medium"),
            work=st.column_config.NumberColumn("work, %", width=65, help="Share of all gate weight"),
            redirected=st.column_config.NumberColumn(
                "redirected, %", width=65, help="Slots that were another expert's first choice"
            ),
        )


@st.fragment(run_every="10s")
def _users(layer: int) -> None:
    """Whom each expert works for; the service takes a sample of its users at most twice a minute."""
    told, why = _known_users(connection.api_url())
    here = next((one for one in told.layers if one.layer == layer), None) if told is not None else None
    if told is None or here is None:
        st.markdown("**Which users does an expert work for?**")
        st.info(f"Not known now: {why or 'no user was asked about'}. Trying again every 10 s.", icon=":material/group:")
        return
    heat = expert_users.by_kind(here)
    left, right = st.columns([1, 1], gap="medium")
    with left:
        spec = {**charts.user_heat(), "height": 70 + 22 * len(here.kinds)}
        style.chart(heat, spec, key=f"users_{layer}", told=expert_users.describe(here))
    with right:
        st.markdown("**In words**")
        _table(
            expert_users.by_expert(here),
            share=st.column_config.NumberColumn(
                "users' work, %",
                width=80,
                help="Share of the gate weight in the users' answers; every user counts the same",
            ),
            leads=st.column_config.NumberColumn(
                "leads for, users", width=80, help="Users in whose answer it had the largest gate weight"
            ),
            kinds=st.column_config.TextColumn("works more for users of", width="medium"),
        )
    st.caption(ABOUT_USERS.format(answered=told.answered, asked=told.asked))


@st.cache_data(ttl=10, show_spinner=False, max_entries=4)
def _known_users(url: str) -> tuple[ExpertUsers | None, str]:
    try:
        return Client(url).expert_users(), ""
    except ApiError as error:
        return None, str(error)


@st.fragment(run_every="2s")
def _now(layer: int) -> None:
    """What the engines say of each expert; it redraws itself."""
    st.markdown("**Now, and in the last two minutes**")
    table = expert_history.by_expert(connection.poller().look().snapshots, layer)
    if table.is_empty():
        st.info("No engine reported in the last two minutes.", icon=":material/hourglass_empty:")
        return
    _table(
        table,
        slots=st.column_config.NumberColumn("work, slots/s", width=80, format="localized"),
        used=st.column_config.NumberColumn("of its capacity, %", width=80),
        blocks=st.column_config.NumberColumn(
            "blocks of slots", width=80, help="More than one where the engine gave a hot expert spare room"
        ),
        health=st.column_config.NumberColumn(
            "health, %", width=65, help="Share of its capacity that is left: a slow expert gets less, a dead one 0"
        ),
        history=st.column_config.LineChartColumn("work over time, × mean (0 to 4)", y_min=0, y_max=4),
    )


def _table(rows: pl.DataFrame, **columns: Any) -> None:
    """One row per expert, at its full height."""
    st.dataframe(rows, hide_index=True, height="content", column_config={"expert": _EXPERT, **columns})


@st.cache_data(ttl=FRESH_S, show_spinner=False, max_entries=4)
def _sample(url: str) -> list[Recommendations]:
    """Answers to the sample; one for all viewers."""
    client = Client(url)
    popular = client.popular(k=100).items
    turns: dict[str, int] = {}
    ranked = []
    for item in popular:
        first = item.categories[0] if item.categories else ""
        turns[first] = turns.get(first, 0) + 1
        ranked.append((turns[first], item.item_id))
    seeds = [item_id for _, item_id in sorted(ranked, key=lambda pair: pair[0])[:SAMPLE]]
    request = {"k": ITEMS, "explain": True, "priority": "batch"}
    answers = []
    for seed in seeds:
        answers.append(answer := client.recommend({**request, "history": [seed]}))
        if not answer.explain:  # what is kept for two minutes must be worth it
            raise UnexplainedError(f"No expert spoke: {answer.fallback or 'the answer names none'}")
    if not answers:
        raise UnexplainedError("Nothing to ask about: the catalogue is empty")
    return answers
