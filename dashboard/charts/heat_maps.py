"""Heat maps: expert by time, and categories and kinds of users by expert."""

from __future__ import annotations

import polars as pl

from dashboard.charts.look import FLAT, SECONDS, Spec, ago, number, titled

HEAT_MAX = 4.0  # × mean at which the colour scale ends


def demand_heat(x: Spec = SECONDS) -> Spec:
    """Demand per expert and time, from `frames.load_over_time`; dots mark wishes above capacity."""
    return _heat("demand", "Which experts do queries want?", "demand", x)


def served_heat(x: Spec = SECONDS) -> Spec:
    """Served load per expert and time, from `frames.load_over_time`, on the scale of `demand_heat`."""
    return _heat("served", "Which experts do the work?", "served load", x)


def price_heat() -> Spec:
    """Price per expert and time, from `frames.load_over_time`."""
    return titled(
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
                "tooltip": [ago(), {"field": "expert"}, number("price", "price, score units", ".3f")],
            },
        },
    )


def specialisation_heat() -> Spec:
    """Category × expert, from `specialisation.by_category`."""
    return _by_expert(
        "Whom do the items of a category go to?",
        "gate weight of the category's items, × mean of all experts",
        {"field": "category", "type": "nominal", "axis": {"title": None, **FLAT, "labelLimit": 130}},
        [{"field": "category"}],
        number("share", "% of the category's gate weight", ".1f"),
    )


def user_heat() -> Spec:
    """Kind of user × expert, from `expert_users.by_kind`."""
    return _by_expert(
        "Which users does an expert work for?",
        "gate weight in their answers, × mean of all experts; users by what their history is most about",
        {"field": "kind", "type": "nominal", "sort": None, "axis": {"title": None, **FLAT, "labelLimit": 150}},
        [{"field": "kind", "title": "users by history"}, number("users", "users in the sample")],
        number("share", "% of the gate weight in their answers", ".1f"),
    )


def describe_specialisation(table: pl.DataFrame) -> str:
    """The heat map in words, from `specialisation.by_expert`."""
    told = [f"E{expert}: {own}" for expert, own in table.select("expert", "categories").iter_rows()]
    return "Categories that each expert takes more of than of the work at large. " + "; ".join(told) + "."


_CELL: Spec = {
    "x": {"field": "start", **SECONDS},
    "x2": {"field": "end"},
    "y": {
        "field": "expert",
        "type": "ordinal",
        "axis": {"title": None, "labelExpr": "'E' + datum.label", **FLAT},
        "scale": {"paddingInner": 0.06},
    },
}


_TIMES_MEAN: Spec = {
    "type": "quantitative",
    "scale": {"scheme": "viridis", "domain": [0, HEAT_MAX], "clamp": True},
    "legend": {
        "title": None,
        "gradientThickness": 8,
        "values": [0, 1, 2, 3, 4],
        "labelExpr": "datum.value == 4 ? '≥ 4×' : datum.value + '×'",
    },
}


def _by_expert(title: str, subtitle: str, rows: Spec, who: list[Spec], share: Spec) -> Spec:
    """What each row takes of each expert: `who` and `share` tell a cell's row and part in its tooltip."""
    return titled(
        title,
        subtitle,
        {
            "mark": {"type": "rect"},
            "encoding": {
                "x": {
                    "field": "expert",
                    "type": "ordinal",
                    "axis": {"title": None, "labelExpr": "'E' + datum.label", **FLAT},
                },
                "y": rows,
                "color": {"field": "times", **_TIMES_MEAN},
                "tooltip": [*who, {"field": "expert"}, number("times", "× mean of all experts", ".2f"), share],
            },
        },
    )


def _heat(field: str, title: str, what: str, x: Spec) -> Spec:
    cell = {**_CELL, "x": {"field": "start", **x}}
    value = {"field": field, "type": "quantitative"}
    tooltip = [
        ago(x),
        {"field": "expert", "title": "expert"},
        {**value, "title": f"{what}, × mean", "format": ".2f"},
        {"field": "capacity", "title": "capacity, × mean", "format": ".2f"},
        {"field": "moved_out", "title": "wishes sent elsewhere, %", "format": ".0f"},
    ]
    return titled(
        title,
        f"{what}, × mean of all experts; dot = above capacity",
        {
            "layer": [
                {
                    "mark": {"type": "rect", "clip": True},
                    "encoding": {
                        **cell,
                        "color": {"field": field, **_TIMES_MEAN},
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
                        "x": cell["x"],
                        "y": cell["y"],
                        "color": {"condition": {"test": f"datum.{field} > 2.6", "value": "black"}, "value": "white"},
                        "tooltip": tooltip,
                    },
                },
            ],
        },
    )
