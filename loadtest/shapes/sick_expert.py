"""One expert loses capacity, all of it or a part, and gets it back; the offered rate stays the same.

The service is told by `PUT /v1/router`, as a monitor of devices would tell it.
"""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.options import Options
from loadtest.shapes.phase import Phase


def slow(options: Options) -> Iterator[Phase]:
    """The expert has `--expert-left` of its capacity for `--crowd-seconds`."""
    return _phases(options, options.expert_left)


def dead(options: Options) -> Iterator[Phase]:
    """The expert has none of it for `--crowd-seconds`."""
    return _phases(options, 0.0)


def _phases(options: Options, left: float) -> Iterator[Phase]:
    around_s = (options.duration - options.crowd_seconds) / 2
    yield Phase("calm", around_s, options.rate)
    yield Phase("crowd", options.crowd_seconds, options.rate, expert_left=left)
    yield Phase("after", around_s, options.rate)
