"""The present: how much each expert is wanted and works, and who hands work to whom."""

from __future__ import annotations

from dashboard.charts.look import FLAT, LEGEND, LIMIT, WANTED, WORKED, Spec, number, titled


def load_bars() -> Spec:
    """Wanted and worked per expert with the capacity of each, from `frames.load_now`."""
    x = {"field": "expert", "type": "ordinal", "axis": {"title": None, "labelExpr": "'E' + datum.label", **FLAT}}
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
        "legend": {**LEGEND, "symbolType": "square", "symbolOpacity": 1},
    }

    def layer(mark: Spec, field: str, name: str) -> Spec:
        y = {"field": field, "type": "quantitative", "axis": {"title": None, "tickCount": 4, "format": "~g"}}
        return {"mark": mark, "encoding": {"x": x, "y": y, "color": {"datum": name, **colour}, "tooltip": tooltip}}

    return titled(
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
    """Who gave work to whom, from `flows.flow_ribbons`."""
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

    return titled(
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
                        "tooltip": [{"field": "flow", "title": "moved"}, number("rate", "slots/s")],
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
