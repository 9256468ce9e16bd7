"""What changes over time, as lines and areas."""

from __future__ import annotations

import json

from dashboard.charts.look import (
    LEGEND,
    LIMIT,
    SECONDS,
    SHED_API,
    STEP_COLOURS,
    WANTED,
    WORKED,
    Spec,
    ago,
    number,
    titled,
)
from dashboard.frames import STEPS


def latency(x: Spec = SECONDS) -> Spec:
    """p50, p95 and p99 over time, from `frames.latency_lines`."""
    return titled(
        "How long do queries take?",
        "ms in the engine; p95 and p99: worst of each 2 s",
        {
            "mark": _LINE,
            "encoding": {
                "x": {"field": "start", **x},
                "y": _y("ms", format_="~s"),
                "color": {
                    "field": "which",
                    "type": "nominal",
                    "scale": {"domain": ["p50", "p95", "p99"], "range": ["#2A9D8F", WORKED, WANTED]},
                    "legend": LEGEND,
                },
                "tooltip": [ago(x), {"field": "which", "title": "percentile"}, number("ms", "ms", ",.1f")],
            },
        },
    )


def outcomes(x: Spec = SECONDS, *, with_api: bool = False) -> Spec:
    """Queries by outcome over time, stacked, from `frames.outcome_areas`; `with_api`: what the API refused is in it."""
    told = "the API's refusals included" if with_api else "that reach the engines; in a crowd the API refuses more"
    names = {
        "calm": "in calm",
        "redirected": "redirected",
        "economised": "economised",
        "shed_engines": "shed by engines",
        "shed_api": "shed by the API",
        "late_or_failed": "late or failed",
    }
    colours = dict(zip(names, [*STEP_COLOURS, SHED_API, "#B07AA1"], strict=True))
    if not with_api:
        del colours["shed_api"]
    return titled(
        "What becomes of the queries?",
        f"queries/s, {told}",
        {
            "transform": [{"filter": {"field": "outcome", "oneOf": list(colours)}}],
            "mark": {"type": "area", "interpolate": "step-after", "line": False, "clip": True},
            "encoding": {
                "x": {"field": "start", **x},
                "y": {**_y("rate", format_="~s"), "stack": "zero"},
                "color": {
                    "field": "outcome",
                    "type": "nominal",
                    "scale": {"domain": list(colours), "range": list(colours.values())},
                    "legend": {**LEGEND, "columns": 3, "labelExpr": f"{json.dumps(names)}[datum.label]"},
                },
                "order": {"field": "place", "type": "quantitative"},
                "tooltip": [ago(x), {"field": "outcome"}, number("rate", "queries/s", ",.1f")],
            },
        },
    )


def balance(x: Spec = SECONDS) -> Spec:
    """The busiest expert over time, wanted and worked, from `frames.balance_lines`."""
    return titled(
        "How far above the mean is the busiest expert?",
        "busiest ÷ mean: as wished (before) and as worked (after redirection)",
        {
            "mark": _LINE,
            "encoding": {
                "x": {"field": "start", **x},
                "y": _y("times", format_="~g"),
                "color": {
                    "field": "which",
                    "type": "nominal",
                    "scale": {"domain": ["capacity", "wanted", "worked"], "range": [LIMIT, WANTED, WORKED]},
                    "legend": {
                        **LEGEND,
                        "labelExpr": "{wanted: 'as wished', worked: 'as worked'}[datum.label] || datum.label",
                    },
                },
                "tooltip": [ago(x), {"field": "which"}, number("times", "× mean", ".2f")],
            },
        },
    )


def quality() -> Spec:
    """Gate score kept over time, from `frames.queries_over_time`; the axis does not start at zero."""
    return titled(
        "What does redirecting cost in quality?",
        "% of the gate score kept; axis does not start at 0",
        _line("score_kept", "score kept", WORKED, format_=".1f", least=(99.0, 100.0)),
    )


def certified_gap() -> Spec:
    """Bound on the distance to the best possible assignment, from `frames.queries_over_time`."""
    return titled(
        "How far from the best assignment can we be?",
        "% of the gate score: certified upper bound, from the prices",
        _line("certified_gap", "certified gap", "#2A9D8F", format_=".2~f", least=(0.0, 0.1)),
    )


def pressure() -> Spec:
    """Pressure over time above a strip that shows the step of the ladder, from `frames.queries_over_time`."""
    colour = {
        "field": "step",
        "type": "nominal",
        "scale": {"domain": list(STEPS), "range": STEP_COLOURS},
        "legend": LEGEND,
    }
    return titled(
        "How hard pressed, and which step answers?",
        "delay in the queue ÷ delay allowed; 1 = all of it, or queries are being refused",
        {
            "mark": {"type": "rect", "clip": True},
            "encoding": {
                "x": {"field": "start", **SECONDS},
                "x2": {"field": "end"},
                "y": _y("pressure", format_="~g", least=(0.0, 1.0)),
                "y2": {"value": "height"},
                "color": colour,
                "tooltip": [ago(), {"field": "step"}, number("pressure", "pressure", ".2f"), number("queue", "queue")],
            },
        },
    )


# Unclipped, a line that leaves the old scale for a moment makes Vega fit the chart to no height.
_LINE: Spec = {"type": "line", "strokeWidth": 2, "interpolate": "monotone", "clip": True}


def _line(field: str, name: str, colour: str, *, format_: str, least: tuple[float, float]) -> Spec:
    """One line in per cent."""
    return {
        "mark": {**_LINE, "color": colour},
        "encoding": {
            "x": {"field": "start", **SECONDS},
            "y": _y(field, format_=format_, least=least),
            "tooltip": [ago(), number(field, f"{name}, %", ".2f")],
        },
    }


def _y(field: str, *, format_: str, least: tuple[float, float] = (0.0, 1.0)) -> Spec:
    """A quantity on a scale that spans `least` even if the data do not: a flat line must look flat."""
    scale = {"domain": {"unionWith": list(least)}, "zero": least[0] == 0, "nice": True}
    return {
        "field": field,
        "type": "quantitative",
        "scale": scale,
        "axis": {"title": None, "tickCount": 4, "format": format_, "domain": False},
    }
