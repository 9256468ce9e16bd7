"""Offered load over time, one shape per file; a shape is plain data and knows nothing of Locust."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from loadtest.options import SHAPE_NAMES, Options
from loadtest.shapes import demo, flash_crowd, steady
from loadtest.shapes.phase import Phase, PhaseName, phase_at, seconds_by_name

SHAPES: dict[str, Callable[[Options], Iterator[Phase]]] = dict(
    zip(SHAPE_NAMES, (steady.phases, flash_crowd.phases, demo.phases), strict=True)
)
ENDLESS = frozenset({"demo"})


def phases_of(options: Options) -> Iterator[Phase]:
    """The phases of the shape that `options` names, from the start."""
    return SHAPES[options.shape](options)


__all__ = ["ENDLESS", "SHAPES", "Phase", "PhaseName", "phase_at", "phases_of", "seconds_by_name"]
