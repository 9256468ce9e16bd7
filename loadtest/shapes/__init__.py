"""Offered load over time, one shape per file; a shape is plain data and knows nothing of Locust."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from loadtest.options import Options
from loadtest.shapes import demo, diurnal, flash_crowd, hot_item, replay, self_exciting, sick_expert, steady, step
from loadtest.shapes.phase import Phase, PhaseName, phase_at, seconds_by_name

SHAPES: dict[str, Callable[[Options], Iterator[Phase]]] = {
    "steady": steady.phases,
    "step": step.phases,
    "flash_crowd": flash_crowd.phases,
    "hot_item": hot_item.phases,
    "diurnal": diurnal.phases,
    "self_exciting": self_exciting.phases,
    "slow_expert": sick_expert.slow,
    "dead_expert": sick_expert.dead,
    "replay": replay.phases,
    "demo": demo.phases,
}
ENDLESS = frozenset({"demo"})


def phases_of(options: Options) -> Iterator[Phase]:
    """The phases of the shape that `options` names, from the start."""
    return SHAPES[options.shape](options)


__all__ = ["ENDLESS", "SHAPES", "Phase", "PhaseName", "phase_at", "phases_of", "seconds_by_name"]
