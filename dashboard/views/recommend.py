"""The page to try the recommender as a user: ask, react, and watch the next list change."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from typing import Any

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import connection, frames
from dashboard.answers import Explanation, Item, Recommendations, User
from dashboard.client import ApiError, Client
from dashboard.moves import Moves, moves
from dashboard.views import trouble

SUGGESTED = ("u1", "u2", "u3", "u5", "u8", "u13")
POPULAR_MAX = 100
HISTORY_SHOWN = 15
APPLIED_WITHIN_S = 2.0
USUAL_GOALS = ["click", "like"]
DONE = {"like": "Liked", "hide": "Hid"}
KNOWN, INVENTED = "A user", "Invent one"


def page() -> None:
    """Draw the page."""
    st.markdown("### What would this user get?")
    client = connection.client()
    try:
        popular = popular_items(client.base_url)
        ask, answer = st.columns([2, 3], gap="large")
        with ask:
            asking, user = who(client, popular)
            request = asking | _wishes(popular)
            _history(user, asking)
        with answer:
            _answer(client, request, user)
    except ApiError as error:
        trouble.show(error)
    else:
        trouble.watch()


@st.cache_data(ttl=10, show_spinner=False, max_entries=4)
def popular_items(url: str) -> list[Item]:
    """Items to choose from; asked once in ten seconds for all viewers."""
    return Client(url).popular(k=POPULAR_MAX).items


@st.cache_data(ttl=10, show_spinner=False, max_entries=4)
def _suggested(url: str) -> list[str]:
    """Those of the usual first users that exist here."""
    client = Client(url)
    return [user_id for user_id in SUGGESTED if client.user(user_id) is not None]


def who(client: Client, popular: Sequence[Item]) -> tuple[dict[str, Any], User | None]:
    """The part of the request that says who asks, and what is known of them."""
    kind = st.segmented_control("Who asks", [KNOWN, INVENTED], default=KNOWN, required=True, key="who")
    if kind == INVENTED:
        titles = {item.item_id: item.title or item.item_id for item in popular}
        liked = st.session_state.setdefault("invented", [])
        picked = st.multiselect(
            "What they used, oldest first",
            [*titles, *(i for i in liked if i not in titles)],
            format_func=lambda item_id: titles.get(item_id, item_id),
            key="invented",
            placeholder="Pick popular items",
        )
        return {"history": list(picked), "exclude_items": st.session_state.get("invented_hidden", [])}, None
    suggested = _suggested(client.base_url)
    if suggested:
        st.pills("Known here", suggested, key="suggested", on_change=_take_suggestion)
    st.session_state.setdefault("user_id", suggested[0] if suggested else "u1")
    user_id = st.text_input("User id", key="user_id", max_chars=128, help="Any id; an unknown one gets a cold start")
    user_id = user_id.strip() or "u1"
    return {"user_id": user_id}, client.user(user_id)


def _take_suggestion() -> None:
    if st.session_state.get("suggested"):
        st.session_state["user_id"] = st.session_state["suggested"]


def _wishes(popular: Sequence[Item]) -> dict[str, Any]:
    """The part of the request that says what is wanted."""
    categories = sorted({category for item in popular for category in item.categories})
    with st.expander("What they want", expanded=True, icon=":material/tune:"):
        known = st.session_state.get("goals_known", USUAL_GOALS)
        goals = {}
        for goal, column in zip(known, _grid(len(known)), strict=True):
            usual = 1.0 if goal == "click" else 0.0
            goals[goal] = column.slider(f"Weight of “{goal}”", 0.0, 5.0, usual, 0.5, key=f"goal_{goal}")
        left, right = st.columns(2)
        diversity = left.slider(
            "Diversity", 0.0, 1.0, 0.0, 0.1, key="diversity", help="0 = by score alone, 1 = as different as possible"
        )
        k = right.slider("Items in the list", 1, 30, 10, key="k")
        left, right = st.columns(2)
        any_of = left.multiselect("Only categories", categories, key="any_of", placeholder="All")
        none_of = right.multiselect("Without categories", categories, key="none_of", placeholder="None left out")
        exclude_seen = st.toggle("Leave out what they have seen", True, key="exclude_seen")
        explain = st.toggle("Explain: which experts spoke", key="explain")
    return {
        "k": k,
        "goals": {goal: weight for goal, weight in goals.items() if weight},
        "filters": {"categories_any": any_of, "categories_none": none_of},
        "diversity": diversity,
        "exclude_seen": exclude_seen,
        "explain": explain,
    }


def _grid(cells: int) -> list[DeltaGenerator]:
    """Cells of a grid two wide."""
    return [cell for _ in range((cells + 1) // 2) for cell in st.columns(2)][:cells]


def _history(user: User | None, asking: dict[str, Any]) -> None:
    if "history" in asking:
        st.caption("An invented user lives in this page only; nothing of it is stored.")
        return
    if user is None:
        st.caption("Nothing is known of this user yet. The first like changes that.")
        return
    st.markdown(f"**History**, newest first ({len(user.history)} interactions, {len(user.hidden)} hidden)")
    rows = [{"title": h.title or h.item_id, "kind": h.kind, "when (UTC)": h.ts} for h in user.history[:HISTORY_SHOWN]]
    schema = {"title": pl.String, "kind": pl.String, "when (UTC)": pl.Int64}
    table = pl.DataFrame(rows, schema=schema).with_columns(pl.from_epoch("when (UTC)", time_unit="ms"))
    st.dataframe(table, hide_index=True, height="content")


def _answer(client: Client, request: dict[str, Any], user: User | None) -> None:
    answer = client.recommend(request)
    goals = sorted({goal for item in answer.items for goal in item.goals})
    if goals and goals != st.session_state.get("goals_known", USUAL_GOALS):
        st.session_state["goals_known"] = goals
        st.rerun()
    changed = _changed(request, answer)
    _provenance(answer)
    if answer.fallback is not None:
        trouble.again()
    if told := st.session_state.pop("told", None):
        st.success(told, icon=":material/check:")
    if not answer.items:
        st.info("No item meets these conditions. Loosen a filter.", icon=":material/filter_alt_off:")
    explained: dict[str, list[Explanation]] = {}
    for part in answer.explain or []:
        explained.setdefault(part.item_id, []).append(part)
    with st.container(key="list"):
        for rank, item in enumerate(answer.items, start=1):
            _item(client, request, answer.request_id, rank, item, changed, explained.get(item.item_id, []))
    if changed.went:
        titles = st.session_state["titles"]
        st.caption("Left the list: " + ", ".join(titles.get(item, item) for item in changed.went))
    if answer.explain:
        st.markdown("**Experts that scored this list**")
        st.dataframe(frames.expert_uses(answer.explain), hide_index=True, height="content")


def _changed(request: dict[str, Any], answer: Recommendations) -> Moves:
    """Against the list before, of the same user; a new user starts afresh."""
    state, who = st.session_state, request.get("user_id")
    now = [item.item_id for item in answer.items]
    if state.get("list_of", "") != (who, "list"):
        state["list_of"], state["list_before"], state["list_now"], state["titles"] = (who, "list"), now, now, {}
    if now != state["list_now"]:
        state["list_before"], state["list_now"] = state["list_now"], now
    shown = {*state["list_before"], *now}
    titles = state["titles"] | {item.item_id: item.title or item.item_id for item in answer.items}
    state["titles"] = {item: title for item, title in titles.items() if item in shown}
    return moves(state["list_before"], now)


def _provenance(answer: Recommendations) -> None:
    """How the list came about."""
    if answer.fallback is not None:
        st.warning(
            f"**Fallback answer**: popular items, not this user's. Why: {answer.fallback}",
            icon=":material/emergency_home:",
        )
    elif answer.cold_start:
        st.info("Cold start: nothing is known of this user, so the list is not personal.", icon=":material/ac_unit:")
    timing, degraded = answer.timing, answer.degraded
    parts = [
        f"**{timing.total_ms:.1f} ms** (state {timing.state_ms:.1f}, queue {timing.queue_ms:.1f}, "
        f"compute {timing.compute_ms:.1f})"
    ]
    if answer.fallback is None:
        parts += [
            f"policy **{answer.policy}**",
            f"step **{degraded.step}**",
            f"{degraded.redirected:.0%} of slots redirected",
            f"{degraded.score_kept:.1%} of gate score kept",
            f"model {answer.model_version}",
        ]
    st.caption(" · ".join(parts))


def _item(
    client: Client,
    request: dict[str, Any],
    request_id: str,
    rank: int,
    item: Item,
    changed: Moves,
    explained: Sequence[Explanation],
) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=False):
        st.html(_card(rank, item, changed, explained), width="stretch")
        for kind, icon in (("like", ":material/thumb_up:"), ("hide", ":material/visibility_off:")):
            st.button(
                kind.capitalize(),
                icon=icon,
                key=f"{kind}_{item.item_id}",
                type="tertiary",
                on_click=_react,
                args=(client, request, request_id, item, kind),
            )


def _card(rank: int, item: Item, changed: Moves, explained: Sequence[Explanation]) -> str:
    scores = " · ".join(f"{escape(goal)} {score:.3f}" for goal, score in item.goals.items())
    places = changed.places.get(item.item_id, 0)
    mark = ""
    if item.item_id in changed.came:
        mark = '<span class="move new">new</span>'
    elif places:
        way, arrow = ("up", "▲") if places > 0 else ("down", "▼")
        mark = f'<span class="move {way}" title="places {way}">{arrow} {abs(places)}</span>'
    spoke = "".join(f'<span class="small">{escape(_spoken(part))}</span>' for part in explained)
    return (
        f'<div class="item"><span class="rank">{rank}</span>'
        f'<span class="title">{escape(item.title or item.item_id)}</span>{mark}'
        f'<span class="small">{escape(", ".join(item.categories))}</span>'
        f'<span class="small">score {item.score:.3f}{" · " + scores if scores else ""}</span>{spoke}</div>'
    )


def _spoken(part: Explanation) -> str:
    experts = ", ".join(f"E{e} {gate:.0%}" for e, gate in zip(part.experts, part.gates, strict=False))
    pairs = zip(part.redirected_from, part.redirected_to, strict=False)
    sent = ", ".join(f"E{a}→E{b}" for a, b in pairs)
    return f"layer {part.layer + 1}: {experts}" + (f" (redirected {sent})" if sent else "")


def _react(client: Client, request: dict[str, Any], request_id: str, item: Item, kind: str) -> None:
    """Send what the user did, and wait until the service has taken it in."""
    title = item.title or item.item_id
    if "user_id" not in request:
        key = "invented" if kind == "like" else "invented_hidden"
        st.session_state[key] = [*st.session_state.get(key, []), item.item_id]
        st.session_state["told"] = f"{DONE[kind]} {title}, in this page only."
        return
    event = {"user_id": request["user_id"], "item_id": item.item_id, "kind": kind, "request_id": request_id}
    try:
        answer = client.send_event(event)
        if answer.rejected:
            st.session_state["told"] = f"Not taken: {answer.rejected[0].reason}"
            return
        st.session_state["told"] = f"{DONE[kind]} {title}. {_applied(client, request['user_id'], item.item_id, kind)}"
    except ApiError:
        return  # the page itself will meet the same error, and says it


def _applied(client: Client, user_id: str, item_id: str, kind: str) -> str:
    started = time.monotonic()
    while time.monotonic() - started < APPLIED_WITHIN_S:
        user = client.user(user_id)
        known = user is not None and (
            item_id in user.hidden
            if kind == "hide"
            else any(entry.item_id == item_id and entry.kind == kind for entry in user.history)
        )
        if known:
            return f"The list below knows it, {1e3 * (time.monotonic() - started):.0f} ms after it was accepted."
        time.sleep(0.02)
    return f"Accepted, but not applied within {APPLIED_WITHIN_S:.0f} s: is a worker running?"
