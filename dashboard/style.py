"""The board's look where Streamlit's theme has no setting, and the small pieces of HTML that pages share."""

from __future__ import annotations

from html import escape
from typing import Any

import polars as pl
import streamlit as st

from dashboard.charts import STEP_COLOURS, themed
from dashboard.frames import STEPS

_CSS = """
<style>
.stMainBlockContainer { padding: 3.9rem 1.4rem 2rem; max-width: 1700px; }
.stMainBlockContainer [data-testid="stVerticalBlock"] { gap: 0.6rem; }
[data-testid="stMetric"] label p { font-size: 0.78rem; }
[data-testid="stMetric"] { min-width: 0; }
/* Who walks by keyboard sees where they are. */
a:focus-visible, button:focus-visible, summary:focus-visible, [role="slider"]:focus-visible {
  outline: 2px solid currentColor !important; outline-offset: 1px;
}
/* Streamlit fades small text below a contrast of 4.5. */
[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] p { color: inherit; opacity: 1; }
[data-testid="stCaptionContainer"] p { opacity: 0.85; }
[data-testid="stCaptionContainer"] code { color: inherit; }
/* A panel that redraws every second must not fade in between. */
[data-stale="true"], .stale-element { opacity: 1 !important; transition: none !important; }
.story { display: flex; flex-wrap: wrap; align-items: center; gap: 0.3rem 0.9rem; }
.story h1 { font-size: 1.35rem; font-weight: 650; margin: 0; padding: 0; line-height: 1.25; }
.story h2 { font-size: 1.15rem; font-weight: 650; margin: 0; padding: 0; line-height: 1.25; }
.story p { margin: 0; flex-basis: 100%; opacity: 0.85; }
.story .bad { color: #D1495B; }
.ladder { display: inline-flex; flex-wrap: wrap; gap: 0.25rem; font-size: 0.8rem; }
.ladder span { padding: 0.1rem 0.6rem; border-radius: 1rem; border: 1px solid rgba(128, 128, 128, 0.45); opacity: 0.8; }
.ladder span.now { color: #10151c; font-weight: 650; border-color: transparent; opacity: 1; }
.item { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0.1rem 0.6rem; }
.item .rank { font-variant-numeric: tabular-nums; opacity: 0.8; min-width: 1.5rem; }
.item .title { font-weight: 600; }
.item .small { font-size: 0.82rem; opacity: 0.8; }
.move { font-size: 0.75rem; font-weight: 650; padding: 0 0.45rem; border-radius: 0.7rem; color: #10151c; }
.move.new { background: #7cc7a1; } .move.up { background: #9cc5f0; } .move.down { background: #f0cf8e; }
.move.gone { background: #e8b4ba; }
.items .item { padding: 0.3rem 0; border-bottom: 1px solid rgba(128, 128, 128, 0.2); }
@media (max-width: 640px) {
  .stMainBlockContainer { padding: 3.9rem 0.8rem 2rem; }
  .story h1 { font-size: 1.15rem; }
  .st-key-numbers [data-testid="stHorizontalBlock"] { display: grid; grid-template-columns: 1fr 1fr; gap: 0.3rem; }
  .st-key-numbers [data-testid="stColumn"] { min-width: 0; width: 100%; }
}
</style>
"""
# Streamlit writes white on the primary colour, which is light in the dark theme.
_DARK = "<style>[data-testid^=stBaseButton-primary] { color: #10151c !important; }</style>"


def apply() -> None:
    """Add the board's style sheet to the page."""
    st.html(_CSS)
    if st.context.theme.type == "dark":
        st.html(_DARK)


def chart(data: pl.DataFrame, spec: dict[str, Any], *, key: str, told: str) -> None:
    """One chart that keeps its place: same key, same spec, other data; `told` says in words what it shows."""
    alt = f"{spec['title']['text']} {told}"
    st.vega_lite_chart(data, themed(spec, st.context.theme.type or "light"), key=key, alt=alt)


def story(title: str, text: str, *, step: str = "", bad: bool = False) -> None:
    """The headline, and the ladder with `step` filled; `bad` marks trouble and fades the picture of the past."""
    rungs = "".join(
        f'<span class="now" style="background:{colour}" aria-current="step">{name}</span>'
        if name == step
        else f"<span>{name}</span>"
        for name, colour in zip(STEPS, STEP_COLOURS, strict=True)
    )
    label = f"ladder of degradation, now {escape(step)}"
    ladder = f'<div class="ladder" role="group" aria-label="{label}">{rungs}</div>' if step else ""
    mark = '<span class="bad" aria-hidden="true">●</span> ' if bad else ""
    past = "<style>.st-key-picture { opacity: 0.45; }</style>" if bad else ""
    st.html(f'{past}<div class="story"><h1>{mark}{escape(title)}</h1>{ladder}<p>{escape(text)}</p></div>')
