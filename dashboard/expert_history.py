"""Each expert's present slots, its health and its last two minutes, from load snapshots; pure."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dashboard import frames
from dashboard.answers import LoadSnapshot


def by_expert(snapshots: Sequence[LoadSnapshot], layer: int) -> pl.DataFrame:
    """One row per expert of one layer, the present being the last two seconds.

    Columns: expert, slots (worked, /s), used (% of its capacity), blocks (of slots, more than one if the engine gave it
    spare room), health (% of its capacity that is left), history (worked, × mean demand, oldest first).
    """
    loads = frames.expert_loads(snapshots, layer)
    now = frames.load_now(loads)
    newest = max(snapshots, key=lambda s: s.ts) if snapshots else None
    history = (
        frames.load_over_time(loads).group_by("expert").agg(pl.col("served").round(2).alias("history")).sort("expert")
    )

    def told(values: Sequence[float]) -> pl.Series:
        """Per expert, 1 where the engine says nothing."""
        return pl.Series([float(values[e]) if e < len(values) else 1.0 for e in now["expert"]], dtype=pl.Float64)

    return (
        now.select(
            "expert",
            pl.col("served").round(0).alias("slots"),
            (100 * pl.col("served") / pl.col("capacity").clip(lower_bound=1e-9)).round(1).alias("used"),
            told(newest.replicas if newest else []).cast(pl.Int64).alias("blocks"),
            (100 * told(newest.health if newest else [])).alias("health"),
        )
        .join(history, on="expert", how="left")
        .sort("expert")
    )
