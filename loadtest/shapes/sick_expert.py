"""One expert falls ill and gets well again; the offered rate stays the same.

The engines are told by `PUT /v1/router` to really wait for it; that they notice and route around it is theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from loadtest.options import Options
from loadtest.shapes.phase import Phase


def slow(options: Options) -> Iterator[Phase]:
    """Each slot of the expert takes `--expert-slow-us` longer, for `--crowd-seconds`."""
    return _phases(options, options.expert_slow_us)


def dead(options: Options) -> Iterator[Phase]:
    """The expert never answers, for `--crowd-seconds`."""
    return _phases(options, "dead")


def _phases(options: Options, injected: float | Literal["dead"]) -> Iterator[Phase]:
    around_s = (options.duration - options.crowd_seconds) / 2
    yield Phase("calm", around_s, options.rate)
    yield Phase("crowd", options.crowd_seconds, options.rate, injected=injected)
    yield Phase("after", around_s, options.rate)
