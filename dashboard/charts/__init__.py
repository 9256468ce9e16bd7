"""Vega-Lite specs as plain dicts, one function per picture; pure.

A spec holds no data and nothing that changes from second to second: the board then swaps the data under a chart
that stays in place. (A raw spec costs well under a millisecond a tick; building chart objects costs tens.)
Loads use viridis and lines use a pair of hues that colour-blind people tell apart; both read on light and dark.
"""

from dashboard.charts.heat_maps import (
    demand_heat,
    describe_specialisation,
    price_heat,
    served_heat,
    specialisation_heat,
    user_heat,
)
from dashboard.charts.lines import balance, certified_gap, latency, outcomes, pressure, quality
from dashboard.charts.loads import flow_ribbons, load_bars
from dashboard.charts.look import BAD, STEP_COLOURS, WANTED, WORKED, Spec, run_seconds, themed

__all__ = [
    "BAD",
    "STEP_COLOURS",
    "WANTED",
    "WORKED",
    "Spec",
    "balance",
    "certified_gap",
    "demand_heat",
    "describe_specialisation",
    "flow_ribbons",
    "latency",
    "load_bars",
    "outcomes",
    "pressure",
    "price_heat",
    "quality",
    "run_seconds",
    "served_heat",
    "specialisation_heat",
    "themed",
    "user_heat",
]
