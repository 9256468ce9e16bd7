"""Kinds of users by the experts that work for them."""

from __future__ import annotations

from dashboard.charts.heat_maps import HEAT_MAX
from dashboard.charts.look import FLAT, Spec, number, titled


def user_heat() -> Spec:
    """Kind of user × expert, from `expert_users.by_kind`."""
    return titled(
        "Which users does an expert work for?",
        "gate weight in their answers, × mean of all experts; users by what their history is most about",
        {
            "mark": {"type": "rect"},
            "encoding": {
                "x": {
                    "field": "expert",
                    "type": "ordinal",
                    "axis": {"title": None, "labelExpr": "'E' + datum.label", **FLAT},
                },
                "y": {
                    "field": "kind",
                    "type": "nominal",
                    "sort": None,
                    "axis": {"title": None, **FLAT, "labelLimit": 150},
                },
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
                    {"field": "kind", "title": "users by history"},
                    number("users", "users in the sample"),
                    {"field": "expert"},
                    number("times", "× mean of all experts", ".2f"),
                    number("share", "% of the gate weight in their answers", ".1f"),
                ],
            },
        },
    )
