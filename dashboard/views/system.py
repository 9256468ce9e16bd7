"""The page about the processes: who is up, in which version, and how far behind."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dashboard import connection
from dashboard.client import ApiError, Client
from dashboard.poller import Board

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
        st.warning("Not ready: answers come from the fallback, or not at all.", icon=":material/warning:")
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
                "behind the newest, s": (newest - s.ts) / 1_000,
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
