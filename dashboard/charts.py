"""Vega-Lite specs as plain dicts, one function per picture; pure.

A spec holds no data and nothing that changes from second to second: the board then swaps the data under a chart
that stays in place. (A raw spec costs well under a millisecond a tick; building chart objects costs tens.)
Loads use viridis and lines use a pair of hues that colour-blind people tell apart; both read on light and dark.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from dashboard.frames import STEPS

Spec = dict[str, Any]

WANTED = "#E69F00"  # amber: what queries wish for
WORKED = "#4A90D9"  # blue: what experts do
LIMIT = "#737B86"  # grey: capacity, and text beside marks; `themed` puts a readable one in its place
GREYS = {"light": "#59616B", "dark": "#A3ABB5"}  # at least 4.5:1 on the board's backgrounds, which no one grey is
BAD = "#D1495B"
HEAT_MAX = 4.0  # × mean at which the colour scale ends
STEP_COLOURS = ["#9AA5B1", "#4A90D9", "#E69F00", "#E5606F"]  # dark text on each has a contrast of at least 4.5

_SECONDS: Spec = {
    "type": "quantitative",
    "scale": {"domain": [-120, 0], "nice": False},
    "axis": {
        "title": None,
        "values": [-120, -90, -60, -30, 0],
        "labelExpr": "datum.value == 0 ? 'now' : (-datum.value) + ' s ago'",
        "labelFlush": True,
        "grid": False,
        "domain": False,
    },
}


def run_seconds(most: float) -> Spec:
    """A time axis from the start of a load run to `most` seconds later, instead of the last two minutes."""
    axis = {"title": None, "tickCount": 6, "labelExpr": "datum.value + ' s'", "grid": False, "domain": False}
    return {"type": "quantitative", "scale": {"domain": [0, most], "nice": False, "clamp": True}, "axis": axis}


def demand_heat() -> Spec:
    """Demand per expert and time, from `frames.load_over_time`; dots mark wishes above capacity."""
    return _heat("demand", "Which experts do queries want?", "demand")


def served_heat() -> Spec:
    """Served load per expert and time, from `frames.load_over_time`, on the scale of `demand_heat`."""
    return _heat("served", "Which experts do the work?", "served load")


def load_bars() -> Spec:
    """Wanted and worked per expert with the capacity of each, from `frames.load_now`."""
    x = {"field": "expert", "type": "ordinal", "axis": {"title": None, "labelExpr": "'E' + datum.label", **_FLAT}}
    tooltip = [
        {"field": "expert", "title": "expert"},
        {"field": "demand_x", "title": "wanted, × mean", "format": ".2f"},
        {"field": "served_x", "title": "worked, × mean", "format": ".2f"},
        {"field": "capacity_x", "title": "capacity, × mean", "format": ".2f"},
        {"field": "demand", "title": "wanted, slots/s", "format": ",.0f"},
        {"field": "served", "title": "worked, slots/s", "format": ",.0f"},
        {"field": "price", "title": "price, score units", "format": ".3f"},
    ]
    colour = {
        "type": "nominal",
        "scale": {"domain": ["wanted", "worked", "capacity"], "range": [WANTED, WORKED, LIMIT]},
        "legend": {**_LEGEND, "symbolType": "square", "symbolOpacity": 1},
    }

    def layer(mark: Spec, field: str, name: str) -> Spec:
        y = {"field": field, "type": "quantitative", "axis": {"title": None, "tickCount": 4, "format": "~g"}}
        return {"mark": mark, "encoding": {"x": x, "y": y, "color": {"datum": name, **colour}, "tooltip": tooltip}}

    return _titled(
        "Who is wanted, who works, now?",
        "per expert, × mean demand, last 2 s",
        {
            "layer": [
                layer({"type": "bar", "width": {"band": 0.9}, "opacity": 0.55}, "demand_x", "wanted"),
                layer({"type": "bar", "width": {"band": 0.5}}, "served_x", "worked"),
                layer(
                    {"type": "tick", "width": {"band": 1.0}, "thickness": 2, "aria": False}, "capacity_x", "capacity"
                ),
            ],
        },
    )


def flow_ribbons() -> Spec:
    """Who gave work to whom, from `frames.flow_ribbons`."""
    y = {
        "field": "y",
        "type": "quantitative",
        "scale": {"domain": [0, 1], "reverse": True, "nice": False},
        "axis": None,
    }
    x = {"field": "x", "type": "quantitative", "scale": {"domain": [-0.22, 1.22], "nice": False}, "axis": None}
    text = {"type": "text", "fontSize": 11, "baseline": "middle"}

    def label(kind: str, align: str, dx: int) -> Spec:
        return {
            "transform": [{"filter": f"datum.kind == '{kind}'"}],
            "mark": {**text, "align": align, "dx": dx, "color": LIMIT, "fontWeight": 600},
            "encoding": {"x": x, "y": {**y, "field": "at"}, "text": {"field": "label"}},
        }

    return _titled(
        "Who hands work to whom, now?",
        "wished-for expert → expert used, slots/s, largest flows",
        {
            "layer": [
                {
                    "transform": [{"filter": "datum.kind == 'ribbon'"}],
                    "mark": {"type": "area", "opacity": 0.5, "interpolate": "linear"},
                    "encoding": {
                        "x": x,
                        "y": y,
                        "y2": {"field": "y2"},
                        "detail": {"field": "flow"},
                        "color": {
                            "field": "giver",
                            "type": "nominal",
                            "legend": None,
                            "scale": {"range": [WANTED, WORKED, "#2A9D8F", "#B07AA1", "#9C755F"]},
                        },
                        "tooltip": [{"field": "flow", "title": "moved"}, _rate("rate", "slots/s")],
                    },
                },
                label("giver", "right", -6),
                label("taker", "left", 6),
                {
                    "transform": [{"filter": "datum.kind == 'note'"}],
                    "mark": {**text, "align": "center", "color": LIMIT, "fontSize": 13},
                    "encoding": {"x": x, "y": {**y, "field": "at"}, "text": {"field": "label"}},
                },
            ],
            "config": {"view": {"stroke": None}},
        },
    )


def latency(x: Spec = _SECONDS) -> Spec:
    """p50, p95 and p99 over time, from `frames.latency_lines`."""
    return _titled(
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
                    "legend": _LEGEND,
                },
                "tooltip": [_ago(), {"field": "which", "title": "percentile"}, _rate("ms", "ms", ",.1f")],
            },
        },
    )


def outcomes(x: Spec = _SECONDS) -> Spec:
    """Queries by outcome over time, stacked, from `frames.outcome_areas`."""
    return _titled(
        "What becomes of the queries?",
        "queries/s that reach the engines; in a crowd the API refuses more",
        {
            "mark": {"type": "area", "interpolate": "step-after", "line": False, "clip": True},
            "encoding": {
                "x": {"field": "start", **x},
                "y": {**_y("rate", format_="~s"), "stack": "zero"},
                "color": {
                    "field": "outcome",
                    "type": "nominal",
                    "scale": {
                        "domain": ["answered", "refused", "expired", "failed"],
                        "range": [WORKED, WANTED, "#B07AA1", BAD],
                    },
                    "legend": _LEGEND,
                },
                "tooltip": [_ago(), {"field": "outcome"}, _rate("rate", "queries/s", ",.1f")],
            },
        },
    )


def balance(x: Spec = _SECONDS) -> Spec:
    """The busiest expert over time, wanted and worked, from `frames.balance_lines`."""
    return _titled(
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
                        **_LEGEND,
                        "labelExpr": "{wanted: 'as wished', worked: 'as worked'}[datum.label] || datum.label",
                    },
                },
                "tooltip": [_ago(), {"field": "which"}, _rate("times", "× mean", ".2f")],
            },
        },
    )


def quality() -> Spec:
    """Gate score kept over time, from `frames.queries_over_time`; the axis does not start at zero."""
    return _titled(
        "What does redirecting cost in quality?",
        "% of the gate score kept; axis does not start at 0",
        _line("score_kept", "score kept", WORKED, format_=".1f", least=(99.0, 100.0)),
    )


def certified_gap() -> Spec:
    """Bound on the distance to the best possible assignment, from `frames.queries_over_time`."""
    return _titled(
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
        "legend": _LEGEND,
    }
    return _titled(
        "How hard pressed, and which step answers?",
        "expected queueing delay ÷ latency budget left; 1 = the budget is used up",
        {
            "mark": {"type": "rect", "clip": True},
            "encoding": {
                "x": {"field": "start", **_SECONDS},
                "x2": {"field": "end"},
                "y": _y("pressure", format_="~g", least=(0.0, 1.0)),
                "y2": {"value": "height"},
                "color": colour,
                "tooltip": [_ago(), {"field": "step"}, _rate("pressure", "pressure", ".2f"), _rate("queue", "queue")],
            },
        },
    )


def price_heat() -> Spec:
    """Price per expert and time, from `frames.load_over_time`."""
    return _titled(
        "What does an expert cost?",
        "price in gate-score units: a token goes where score − price is best",
        {
            "mark": {"type": "rect"},
            "encoding": {
                **_CELL,
                "color": {
                    "field": "price",
                    "type": "quantitative",
                    "scale": {"scheme": "cividis", "domain": {"unionWith": [0, 0.05]}},
                    "legend": {"title": None, "gradientThickness": 8, "tickCount": 3},
                },
                "tooltip": [_ago(), {"field": "expert"}, _rate("price", "price, score units", ".3f")],
            },
        },
    )


def specialisation_heat() -> Spec:
    """Category × expert, from `specialisation.by_category`."""
    return _titled(
        "Whom do the items of a category go to?",
        "gate weight of the category's items, × mean of all experts",
        {
            "mark": {"type": "rect"},
            "encoding": {
                "x": {
                    "field": "expert",
                    "type": "ordinal",
                    "axis": {"title": None, "labelExpr": "'E' + datum.label", **_FLAT},
                },
                "y": {"field": "category", "type": "nominal", "axis": {"title": None, **_FLAT, "labelLimit": 130}},
                "color": {
                    "field": "times",
                    "type": "quantitative",
                    "scale": {"scheme": "viridis", "domain": [0, HEAT_MAX], "clamp": True},
                    "legend": {
                        "title": None,
                        "gradientThickness": 8,
                        "values": [0, 1, 2, 3, 4],
                        "labelExpr": "datum.value == 4 ? '≥ 4×' : datum.value + '×'",
                    },
                },
                "tooltip": [
                    {"field": "category"},
                    {"field": "expert"},
                    _rate("times", "× mean of all experts", ".2f"),
                    _rate("share", "% of the category's gate weight", ".1f"),
                ],
            },
        },
    )


def describe_specialisation(table: pl.DataFrame) -> str:
    """The heat map in words, from `specialisation.by_expert`."""
    told = [f"E{expert}: {own}" for expert, own in table.select("expert", "categories").iter_rows()]
    return "Categories that each expert takes more of than of the work at large. " + "; ".join(told) + "."


def themed(spec: Spec, theme: str) -> Spec:
    """The spec with the grey that reads on the background of `light` or `dark`."""
    grey = GREYS["dark" if theme == "dark" else "light"]

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: walk(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        return grey if value == LIMIT else value

    told: Spec = walk(spec)
    return told


# Unclipped, a line that leaves the old scale for a moment makes Vega fit the chart to no height.
_LINE: Spec = {"type": "line", "strokeWidth": 2, "interpolate": "monotone", "clip": True}
_FLAT: Spec = {"labelAngle": 0, "labelOverlap": True, "ticks": False, "domain": False}
_LEGEND: Spec = {"title": None, "orient": "top", "direction": "horizontal", "offset": 2, "padding": 0}
_CELL: Spec = {
    "x": {"field": "start", **_SECONDS},
    "x2": {"field": "end"},
    "y": {
        "field": "expert",
        "type": "ordinal",
        "axis": {"title": None, "labelExpr": "'E' + datum.label", **_FLAT},
        "scale": {"paddingInner": 0.06},
    },
}


def _heat(field: str, title: str, what: str) -> Spec:
    value = {"field": field, "type": "quantitative"}
    tooltip = [
        _ago(),
        {"field": "expert", "title": "expert"},
        {**value, "title": f"{what}, × mean", "format": ".2f"},
        {"field": "capacity", "title": "capacity, × mean", "format": ".2f"},
        {"field": "moved_out", "title": "wishes sent elsewhere, %", "format": ".0f"},
    ]
    return _titled(
        title,
        f"{what}, × mean of all experts; dot = above capacity",
        {
            "layer": [
                {
                    "mark": {"type": "rect", "clip": True},
                    "encoding": {
                        **_CELL,
                        "color": {
                            **value,
                            "scale": {"scheme": "viridis", "domain": [0, HEAT_MAX], "clamp": True},
                            "legend": {
                                "title": None,
                                "gradientThickness": 8,
                                "values": [0, 1, 2, 3, 4],
                                "labelExpr": "datum.value == 4 ? '≥ 4×' : datum.value + '×'",
                            },
                        },
                        "tooltip": tooltip,
                    },
                },
                {
                    "transform": [
                        {"filter": f"datum.{field} > datum.capacity * 1.02"},
                        {"calculate": "(datum.start + datum.end) / 2", "as": "start"},
                    ],
                    "mark": {"type": "point", "filled": True, "size": 7, "opacity": 1, "aria": False},
                    "encoding": {
                        "x": _CELL["x"],
                        "y": _CELL["y"],
                        "color": {"condition": {"test": f"datum.{field} > 2.6", "value": "black"}, "value": "white"},
                        "tooltip": tooltip,
                    },
                },
            ],
        },
    )


def _line(field: str, name: str, colour: str, *, format_: str, least: tuple[float, float]) -> Spec:
    """One line in per cent."""
    return {
        "mark": {**_LINE, "color": colour},
        "encoding": {
            "x": {"field": "start", **_SECONDS},
            "y": _y(field, format_=format_, least=least),
            "tooltip": [_ago(), _rate(field, f"{name}, %", ".2f")],
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


def _ago() -> Spec:
    return {"field": "start", "title": "seconds from now", "format": ".0f"}


def _rate(field: str, title: str, format_: str = ",.0f") -> Spec:
    return {"field": field, "title": title, "format": format_}


def _titled(question: str, unit: str, spec: Spec) -> Spec:
    """The question as title, the unit as subtitle, and the quiet look that all charts share."""
    title = {"text": question, "subtitle": unit, "anchor": "start", "frame": "group", "offset": 6}
    config = {
        "title": {
            "fontSize": 15,
            "fontWeight": 600,
            "subtitleFontSize": 11,
            "subtitleColor": LIMIT,
            "subtitlePadding": 3,
        },
        "axis": {"labelFontSize": 10, "labelPadding": 4, "labelColor": LIMIT},
        "legend": {"labelFontSize": 11, "labelColor": LIMIT},
        **spec.pop("config", {}),
    }
    return {"title": title, **spec, "config": config, "autosize": {"type": "fit", "contains": "padding"}}
