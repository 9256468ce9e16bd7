"""The page about the parts: who runs, in which version, how far behind, and what could not be applied."""

from __future__ import annotations

import time
from pathlib import Path
from resource import getpagesize
from typing import Any

import polars as pl
import streamlit as st

from dashboard import connection, parts
from dashboard.answers import Models
from dashboard.client import ApiError, Client
from dashboard.poller import Board
from dashboard.system_answers import System
from dashboard.views import admin

UNITS = {
    "backlog": "events in the stream, not yet applied",
    "catalogue_items": "items in the catalogue",
    "redis": "Redis answers",
    "engine": "an engine answers, warmed up",
    "model_version": "version in service",
    "ready": "personal answers are possible",
}
LETTERS = 10


def page() -> None:
    """Draw the page; it then redraws itself every two seconds."""
    st.markdown("### Is everything there?")
    _state()
    _dead_letters()
    _models()
    _details()


@st.fragment(run_every="2s")
def _state() -> None:
    board = connection.poller().look()
    url = connection.api_url()
    ready, facts, error = _ready(url)
    _headline(board, ready, facts, error)
    if board.system is None:
        if not error:
            st.info("Asking which processes there are …", icon=":material/hourglass_empty:")
    else:
        _parts(board, board.system, past=bool(error) or board.error is not None or facts.get("redis") is False)


def _headline(board: Board, ready: bool, facts: dict[str, Any], error: str) -> None:
    """What is wrong, or that nothing is."""
    wrong = parts.troubles(board.system) if board.system is not None and board.error is None else []
    if error:
        st.error(f"**Disconnected.** {error}. Trying again every 2 s.", icon=":material/cloud_off:")
    elif not ready:
        st.warning(f"Not ready: {_lacking(facts)}", icon=":material/warning:")
    elif wrong:
        st.warning("Ready, but: " + " ".join(wrong), icon=":material/warning:")
    else:
        heard = ", and all its parts are heard" if board.system is not None and board.error is None else ""
        st.success(f"Ready: the service gives personal answers{heard}.", icon=":material/check_circle:")


def _parts(board: Board, system: System, *, past: bool) -> None:
    """Processes, the stream, what the API processes did, Redis."""
    now_ms = int(time.time() * 1e3)
    st.markdown("**Which processes are there?** (`/v1/system`)" + (" · as it was before, not now" if past else ""))
    st.dataframe(parts.processes(system, now_ms=now_ms), hide_index=True, height="content")
    st.markdown("**What does the API answer and refuse?** Queries of each process, since it started and now")
    st.dataframe(parts.doors(system, board.calls), hide_index=True, height="content")
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown(f"**How far behind are the readers of the stream?** {system.stream.entries:,} events in it")
        st.dataframe(parts.groups(system), hide_index=True, height="content")
    with right:
        st.markdown("**How full is Redis?**")
        most = system.redis.memory_max_mb
        rows = [
            (
                "memory",
                f"{system.redis.memory_mb:,.1f} MB",
                f"of at most {most:,.0f} MB" if most else "no bound is set",
            ),
            ("up for", parts.duration((now_ms - system.redis.since) / 1_000), ""),
            ("version", system.redis.version, ""),
        ]
        st.dataframe(_table(rows, "what", "now", "meaning"), hide_index=True, height="content")


@st.fragment(run_every="2s")
def _details() -> None:
    """What the engines do, what `/readyz` says, and what this board costs."""
    board, url = connection.poller().look(), connection.api_url()
    _, facts, _ = _ready(url)
    st.markdown("**What do the engines do?** (`/v1/experts`)")
    st.dataframe(_engines(board), hide_index=True, height="content")
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**Can it answer?** (`/readyz`)")
        rows = [(name, _text(value), UNITS.get(name, "")) for name, value in facts.items()]
        st.dataframe(_table(rows, "what", "now", "meaning"), hide_index=True, height="content")
    with right:
        st.markdown("**What does this board cost?**")
        own = [
            ("service", url, "base URL"),
            ("last poll", f"{board.poll_ms:.0f} ms", "one poll a second, whatever the number of viewers"),
            ("snapshots kept", f"{len(board.snapshots):,}", "the last two minutes"),
            ("memory", f"{_own_memory_mb():,.0f} MB", "resident, of the board's process"),
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
    st.markdown("**Which model versions are there?** (`/v1/models`)")
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


@st.fragment(run_every="2s")
def _dead_letters() -> None:
    """How many events could not be applied, and the newest of them for whoever has the key: they may name users."""
    system = connection.poller().look().system
    st.markdown("**Which events could not be applied?** (dead letters)")
    if system is None:
        st.caption("Not known.")
        return
    st.markdown(parts.letters(system, now_ms=int(time.time() * 1e3)))
    if not system.dead_letters.count:
        return
    admin.key("letters_key")
    st.button("Show the newest", key="letters_show", icon=":material/mail:", on_click=_read_letters)
    kind, text = st.session_state.get("letters_outcome", ("", ""))
    admin.tell(kind, text)
    if (shown := st.session_state.get("letters")) is not None:
        rows = [
            (letter.reason, ", ".join(f"{name}={value}" for name, value in letter.fields.items()), letter.id)
            for letter in shown.letters
        ]
        st.dataframe(_table(rows, "what is wrong", "the event", "letter"), hide_index=True, height="content")
        st.caption("`recsys dead-letters` mends them and sends them again.")


def _read_letters() -> None:
    """Ask for the newest letters, and keep them or what went wrong."""
    st.session_state.pop("letters", None)
    st.session_state["letters_outcome"] = ("error", admin.NO_KEY)
    if key := admin.typed_key("letters_key"):
        try:
            st.session_state["letters"] = connection.client().dead_letters(key=key, count=LETTERS)
            st.session_state["letters_outcome"] = ("", "")
        except ApiError as error:
            st.session_state["letters_outcome"] = ("error", admin.explain(error, "They cannot be shown"))


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


def _own_memory_mb() -> float:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize() / 1e6
    except OSError:  # not Linux
        return float("nan")
