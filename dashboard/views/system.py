"""The page about the processes: who is up, in which version, and how far behind."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dashboard import connection
from dashboard.answers import Models
from dashboard.client import ApiError, Client
from dashboard.poller import Board
from dashboard.views import admin

UNITS = {
    "backlog": "events in the stream, not yet applied",
    "catalogue_items": "items in the catalogue",
    "redis": "Redis answers",
    "engine": "an engine answers, warmed up",
    "model_version": "version in service",
    "ready": "personal answers are possible",
}


def page() -> None:
    """Draw the page; it then redraws itself every two seconds."""
    st.markdown("### Is everything there?")
    _processes()
    _models()


@st.fragment(run_every="2s")
def _processes() -> None:
    board = connection.poller().look()
    url = connection.api_url()
    ready, facts, error = _ready(url)
    if error:
        st.error(f"**Disconnected.** {error}. Trying again every 2 s.", icon=":material/cloud_off:")
    elif ready:
        st.success("Ready: the service gives personal answers.", icon=":material/check_circle:")
    else:
        st.warning(f"Not ready: {_lacking(facts)}", icon=":material/warning:")
    st.markdown("**Engines** (`/v1/experts`)")
    st.dataframe(_engines(board), hide_index=True, height="content")
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**Service** (`/readyz`)")
        rows = [(name, _text(value), UNITS.get(name, "")) for name, value in facts.items()]
        st.dataframe(_table(rows, "what", "now", "meaning"), hide_index=True, height="content")
    with right:
        st.markdown("**This board**")
        own = [
            ("service", url, "base URL"),
            ("last poll", f"{board.poll_ms:.0f} ms", "one poll a second, whatever the number of viewers"),
            ("snapshots kept", f"{len(board.snapshots):,}", "the last two minutes"),
        ]
        st.dataframe(_table(own, "what", "now", "meaning"), hide_index=True, height="content")


def _lacking(facts: dict[str, Any]) -> str:
    """What `/readyz` misses, and what that means."""
    if facts.get("redis") is False:
        return "Redis does not answer. Users, events and load are unknown until it does."
    if facts.get("engine") is False:
        return "no engine answers. Recommendations are popular items until one does."
    return "answers come from the fallback, or not at all."


@st.fragment(run_every="2s")
def _models() -> None:
    """Versions in service, and the buttons that change them."""
    st.markdown("**Models** (`/v1/models`)")
    models, error = _known_models(connection.api_url())
    if models is None:
        st.caption(f"Not known: {error}")
        return
    served: dict[str, list[str]] = {}
    for one in models.models:
        served.setdefault(one.model_version, []).append(one.engine)
    if models.available:
        admin.key("models_key")
    for version in sorted({*served, *models.available}):
        name, button = st.columns([3, 1], vertical_alignment="center")
        engines = ", ".join(served.get(version, []))
        before = " · served before" if version == models.previous else ""
        name.markdown(f"`{version}`: {f'serves on {engines}' if engines else 'not in service'}{before}")
        if version in models.available and len(served.get(version, [])) < len(models.models):
            label = "Roll back" if version == models.previous else "Activate"
            button.button(
                label,
                key=f"activate_{version}",
                help=f"Serve {version} on all engines",
                width="stretch",
                on_click=_activate,
                args=(version, version == models.previous),
            )
    if not models.available:
        st.caption("Engines offer no other version.")
    admin.tell(*st.session_state.get("models_outcome", ("", "")))


def _activate(version: str, back: bool) -> None:
    """Ask for a version, and keep what to tell, as (kind, text)."""
    client, key, outcome = connection.client(), admin.typed_key("models_key"), ("error", admin.NO_KEY)
    if key:
        try:
            client.rollback(key=key) if back else client.activate(version, key=key)
            outcome = "success", f"{version} serves on all engines."
        except ApiError as error:
            outcome = "error", admin.explain(error, f"{version} does not serve")
        _known_models.clear()
    st.session_state["models_outcome"] = outcome


@st.cache_data(ttl=2, show_spinner=False, max_entries=4)
def _known_models(url: str) -> tuple[Models | None, str]:
    try:
        return Client(url).models(), ""
    except ApiError as error:
        return None, str(error)


@st.cache_data(ttl=2, show_spinner=False, max_entries=4)
def _ready(url: str) -> tuple[bool, dict[str, Any], str]:
    try:
        return *Client(url).ready(), ""
    except ApiError as error:
        return False, {}, str(error)


def _engines(board: Board) -> pl.DataFrame:
    """The last snapshot of each engine."""
    last = {s.engine: s for s in board.snapshots}
    newest = max((s.ts for s in last.values()), default=0)
    return pl.DataFrame(
        [
            {
                "engine": name,
                "model": s.model_version,
                "policy": f"{s.policy} · {s.capacity_factor:.2f}×",
                "step": s.step,
                "layers × experts": f"{len(s.layers)} × {len(s.layers[0].demand) if s.layers else 0}",
                "queries per batch": round(s.batch_requests_mean, 1),
                "step p50, ms": round(s.step_ms_p50, 1),
                "step p99, ms": round(s.step_ms_p99, 1),
                "behind the newest, s": round((newest - s.ts) / 1_000, 1),
            }
            for name, s in sorted(last.items())
        ]
    )


def _table(rows: list[tuple[str, str, str]], *names: str) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_text(v)}" for k, v in value.items())
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
