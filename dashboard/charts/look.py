"""The look that all charts share: colours, the time axis, titles; and the grey that fits the theme."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]
WANTED = "#E69F00"  # amber: what queries wish for
WORKED = "#4A90D9"  # blue: what experts do
LIMIT = "#737B86"  # grey: capacity, and text beside marks; `themed` puts a readable one in its place
GREYS = {"light": "#59616B", "dark": "#A3ABB5"}  # at least 4.5:1 on the board's backgrounds, which no one grey is
BAD = "#D1495B"
STEP_COLOURS = ["#9AA5B1", "#4A90D9", "#E69F00", "#E5606F"]  # dark text on each has a contrast of at least 4.5
SHED_API = "#A8324A"  # beside the ladder's colour of what engines shed

SECONDS: Spec = {
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
FLAT: Spec = {"labelAngle": 0, "labelOverlap": True, "ticks": False, "domain": False}
LEGEND: Spec = {"title": None, "orient": "top", "direction": "horizontal", "offset": 2, "padding": 0}


def run_seconds(most: float) -> Spec:
    """A time axis from the start of a load run to `most` seconds later, instead of the last two minutes."""
    axis = {"title": None, "tickCount": 6, "labelExpr": "datum.value + ' s'", "grid": False, "domain": False}
    return {"type": "quantitative", "scale": {"domain": [0, most], "nice": False, "clamp": True}, "axis": axis}


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


def titled(question: str, unit: str, spec: Spec) -> Spec:
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


def ago(x: Spec = SECONDS) -> Spec:
    """When, on the time axis `x`."""
    title = "seconds from now" if x == SECONDS else "seconds since the start"
    return {"field": "start", "title": title, "format": ".0f"}


def number(field: str, title: str, format_: str = ",.0f") -> Spec:
    return {"field": field, "title": title, "format": format_}
