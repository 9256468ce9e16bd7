"""A load run as a table, as frames for charts, and as one html file that needs nothing else; pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import median
from typing import Any

import polars as pl

from dashboard import charts, frames
from dashboard.burst import PHASES, Run

WIDTH, HEIGHT, LEFT, BOTTOM = 760, 220, 46, 22
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:820px;margin:2rem auto;padding:0 1rem;color:#1b2430;"
    "background:#fff}h2{font-size:1.05rem;margin:1.6rem 0 .2rem}table{border-collapse:collapse;width:100%}"
    "td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #d5dae0}td:first-child,th:first-child"
    "{text-align:left}small,.unit{color:#57606a}svg{width:100%;height:auto}"
)
ROWS = (
    ("offered, requests/s", "offered_per_s", 1),
    ("sent on time, requests/s", "achieved_per_s", 1),
    ("ok, requests/s", "goodput_per_s", 1),
    ("shed (503, 429), requests", "shed", 0),
    ("errors, requests", "errors", 0),
    ("not sent, requests", "not_sent", 0),
    ("fallback answers", "fallback", 0),
)
BY_POLICY = (
    "p50 in the engine, ms (median of quarter seconds)",
    "p99 in the engine, ms (median of quarter seconds)",
    "busiest ÷ mean, × worked",
    "refused by the engines, queries/s",
    "gate score kept, %",
)

EMULATED = "emulated: one device per expert, {:g} µs a slot"
BOUNDS = {
    "min_achieved": "{} of the requests went out on time, at least {} should: the generator was short of processor "
    "time, and the figures are kinder than the load would have been",
    "max_error_share": "{} of the answers were errors, at most {} may be",
    "max_shed_share": "{} of the answers were refusals, at most {} may be",
}


def phase_table(summary: dict[str, Any]) -> pl.DataFrame:
    """What clients met, one row per figure, one column per phase."""
    phases = summary.get("phases", {})
    columns: dict[str, list[str]] = {"": [label for label, _, _ in ROWS]}
    columns[""] += ["p50, ms since due", "p99, ms since due", "answers at a step above calm"]
    for name, counts in phases.items():
        cells = [f"{counts.get(key) or 0:,.{digits}f}" for _, key, digits in ROWS]
        times = counts.get("response_ms") or {}
        cells += [f"{times[q]:,.1f}" if times.get(q) is not None else "–" for q in ("p50", "p99")]
        cells.append(
            ", ".join(f"{step} {n}" for step, n in (counts.get("steps") or {}).items() if step != "calm") or "–"
        )
        columns[PHASES.get(name, name)] = cells
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def by_policy(run: Run) -> pl.DataFrame:
    """What the engines did in the middle of a run under each policy that routed then, in the order of appearance.

    Empty unless there were two. There are four snapshots a second of each engine: latency and balance are medians over
    those in which something was answered, and all of them count for refusals.
    """
    if not run.plan.has_middle or run.elapsed_s is None or not run.snapshots:
        return pl.DataFrame()
    end_ms = run.snapshots[-1].ts - 1_000 * (run.elapsed_s - run.plan.around_s - run.plan.crowd_s)
    during = [s for s in run.snapshots if end_ms - 1_000 * run.plan.crowd_s < s.ts <= end_ms]
    policies = list(dict.fromkeys(s.policy for s in during))
    if len(policies) < 2:
        return pl.DataFrame()
    columns: dict[str, list[str]] = {"": list(BY_POLICY)}
    for policy in policies:
        some = [s for s in during if s.policy == policy]
        answering = [s for s in some if s.answered]
        layers = [layer for s in answering for layer in s.layers]
        seconds = sum(s.interval_ms for s in some) / 1_000 / len({s.engine for s in some})
        columns[policy] = [
            f"{median(s.latency_ms_p50 for s in answering):,.1f}" if answering else "–",
            f"{median(s.latency_ms_p99 for s in answering):,.1f}" if answering else "–",
            f"{median(layer.max_over_mean_served for layer in layers):.2f}" if layers else "–",
            f"{sum(s.refused for s in some) / seconds:,.1f}",
            f"{100 * median(layer.score_kept for layer in layers):.1f}" if layers else "–",
        ]
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def broken_bounds(summary: dict[str, Any]) -> list[str]:
    """The thresholds that a run did not keep, in words."""
    told = []
    for bound in summary.get("thresholds", []):
        if bound.get("ok", True):
            continue
        option, value = str(bound.get("option", "")), bound.get("value")
        phase = " ".join(PHASES.get(word, word) for word in str(bound.get("phase", "")).split(" "))
        measured = "nothing" if value is None else f"{value:.1%}"
        words = BOUNDS.get(option, option + ": {}, bound {}")
        limit = f"{bound.get('limit', 0.0):.0%}"
        told.append(f"{phase}: {words.format(measured, limit)}.")
    return told


def in_run(frame: pl.DataFrame, seconds: float) -> pl.DataFrame:
    """A frame with `start` in seconds before the end as one with seconds since the start of a run of that length."""
    return frame.with_columns(pl.col("start") + seconds).filter(pl.col("start") >= -frames.BIN_MS / 1_000)


def headline(run: Run) -> str:
    """The outcome in one sentence."""
    if run.summary is None:
        return run.error
    during = run.summary["phases"].get("crowd") or run.summary["phases"].get("calm") or {}
    before = run.summary["phases"].get("calm") or {}
    slow, usual = ((c.get("response_ms") or {}).get("p99") for c in (during, before))
    told = f"{during.get('ok', 0):,} of {during.get('offered', 0):,} answered, {during.get('shed', 0):,} shed"
    if slow is None or usual is None or during is before:
        return told + "."
    return f"In the crowd {told}; p99 {slow:,.0f} ms against {usual:,.0f} ms before."


def html(run: Run) -> str:
    """The report as one file: the table and three pictures as inline SVG, no script, nothing fetched."""
    plan = run.plan
    what = f"{plan.shape.replace('_', ' ')}, {plan.rate:g} requests/s, {plan.peak:g} at the peak, {plan.seconds:g} s"
    if plan.lane_us:
        what += f"; {EMULATED.format(plan.lane_us)}"
    parts = [f"<h1>Load run</h1><p>{escape(what)}; policy {escape(run.policy or 'unknown')}.</p>"]
    parts.append(f"<p><strong>{escape(headline(run))}</strong></p>")
    if run.summary is not None:
        parts.append(_html_table(phase_table(run.summary)))
    if not (policies := by_policy(run)).is_empty():
        parts.append(_html_table(policies))
    if run.snapshots:
        seconds = run.elapsed_s or plan.seconds
        picture = frames.picture(run.snapshots, 0)
        queries = in_run(picture.queries, seconds)
        balance = in_run(frames.balance_over_time(picture.over_time), seconds)
        outcomes = [("answered", charts.WORKED), ("refused", charts.WANTED), ("expired", charts.BAD)]
        parts += [
            _svg("What becomes of the queries?", "queries/s, by the engines", queries, outcomes),
            _svg(
                "How long do queries take?",
                "ms from arrival at the engine to the answer",
                queries.filter(pl.col("answered") > 0),
                [("p50", "#2A9D8F"), ("p99", charts.WANTED)],
            ),
            _svg(
                "How far above the mean is the busiest expert?",
                "× mean; wanted and worked, layer 1",
                balance,
                [("wanted", charts.WANTED), ("worked", charts.WORKED)],
            ),
        ]
        parts.append("<p><small>The pictures show all that the engines did, other traffic included.</small></p>")
    title = "Load run"
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>' + (
        "<body>" + "".join(parts) + "</body></html>"
    )


def _html_table(table: pl.DataFrame) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in table.iter_rows()]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"


def _svg(title: str, unit: str, frame: pl.DataFrame, series: Sequence[tuple[str, str]]) -> str:
    """Lines over the seconds of the run, from zero."""
    if frame.height < 2:
        return ""
    xs = frame["start"].to_list()
    last = max(float(xs[-1]), 1.0)
    top = max([1e-9, *(float(frame[name].max() or 0.0) for name, _ in series)])  # type: ignore[arg-type]

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 8) * max(value, 0.0) / last

    def y(value: float) -> float:
        return 8 + (HEIGHT - BOTTOM - 8) * (1 - value / top)

    marks = []
    for share in (0.0, 0.5, 1.0):
        at, label = y(share * top), f"{share * top:,.3g}"
        marks.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{at:.1f}" y2="{at:.1f}" stroke="#d5dae0"/>')
        marks.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end" font-size="11">{label}</text>')
        second = share * last
        anchor = {0.0: "start", 1.0: "end"}.get(share, "middle")
        marks.append(
            f'<text x="{x(second):.1f}" y="{HEIGHT - 4}" text-anchor="{anchor}" font-size="11">{second:.0f} s</text>'
        )
    for name, colour in series:
        points = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in zip(xs, frame[name], strict=True) if v is not None)
        marks.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    legend = " ".join(f'<span style="color:{colour}">■</span> {escape(name)}' for name, colour in series)
    return (
        f'<h2>{escape(title)}</h2><div class="unit">{escape(unit)} · {legend}</div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(marks)}</svg>'
    )
