"""What the API processes turned away, over time, from what each counted since it started; pure.

Load snapshots begin at the engines. In a crowd the API refuses before it reads a request, and no engine knows of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import polars as pl

from dashboard.system_answers import Process, QueryCounts

SCHEMA = {"process": pl.String, "ts": pl.Int64, "ms": pl.Int64, "turned_away": pl.Int64, "limited": pl.Int64}


@dataclass(frozen=True, slots=True)
class CallCounts:
    """The counters of one API process at a moment (Unix ms, by its own clock)."""

    process: str
    ts: int
    counts: QueryCounts

    @classmethod
    def of(cls, process: Process) -> Self | None:
        """None if the process answers no queries."""
        name = f"{process.host}:{process.pid}:{process.since}"
        return None if process.queries is None else cls(name, process.ts, process.queries)


def turned_away(calls: Sequence[CallCounts], *, newest_ms: int, bin_ms: int) -> pl.DataFrame:
    """Requests refused by the API alone, per time bin: start (s before the end of the newest bin), shed_api (/s).

    Those beyond their caller's rate are among them. Counters only grow, so that a pause of the board loses nothing: the
    mean rate of the pause stands where it ended.
    """
    each: dict[str, list[CallCounts]] = {}
    for one in calls:
        each.setdefault(one.process, []).append(one)
    rows = [
        (process, b.ts, b.ts - a.ts, b.counts.turned_away - a.counts.turned_away, b.counts.limited - a.counts.limited)
        for process, kept in each.items()
        for a, b in pairwise(kept)
    ]
    bins_ago = (pl.col("ts") // bin_ms - newest_ms // bin_ms).clip(upper_bound=0)
    return (
        pl.DataFrame(rows, schema=SCHEMA, orient="row")
        .group_by(((bins_ago - 1) * (bin_ms / 1_000)).alias("start"), "process")
        .agg((1_000 * (pl.col("turned_away") + pl.col("limited")).sum() / pl.col("ms").sum()).alias("shed_api"))
        .group_by("start")
        .agg(pl.col("shed_api").sum())
        .sort("start")
    )
