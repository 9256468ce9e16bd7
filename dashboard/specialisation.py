"""What experts are for: from explained answers to category × expert; pure.

Load snapshots count slots and know nothing of items, so this comes from a sample of queries asked with `explain`.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dashboard.answers import Recommendations

CATEGORIES_MAX = 24
LIKELY = 1.15  # × mean from which a category counts as an expert's own
SCHEMA = {
    "layer": pl.Int32,
    "expert": pl.Int32,
    "category": pl.String,
    "weight": pl.Float64,
    "redirected": pl.Boolean,
}


def uses(answers: Sequence[Recommendations]) -> pl.DataFrame:
    """One row per (item, layer, expert, category): the gate weight, shared among the item's categories (SCHEMA)."""
    rows = []
    for answer in answers:
        categories = {item.item_id: item.categories or ["(none)"] for item in answer.items}
        for part in answer.explain or []:
            own = categories.get(part.item_id, [])
            for expert, gate in zip(part.experts, part.gates, strict=False):
                moved = expert in part.redirected_to
                rows += [(part.layer, expert, category, gate / len(own), moved) for category in own]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def by_category(used: pl.DataFrame, layer: int) -> pl.DataFrame:
    """How much of a category each expert takes, × the mean of all experts, for the most frequent categories.

    Columns: category, expert, share (% of the category's gate weight), times (× mean over experts). An expert that
    never spoke for a category has a row with 0.
    """
    here = used.filter(pl.col("layer") == layer)
    top = here.group_by("category").agg(pl.col("weight").sum()).sort("weight", "category", descending=[True, False])
    every = top.head(CATEGORIES_MAX).select("category").join(_experts(here), how="cross")
    weight = here.group_by("category", "expert").agg(pl.col("weight").sum())
    whole = pl.col("weight").sum().over("category")
    return (
        every.join(weight, on=["category", "expert"], how="left")
        .with_columns(pl.col("weight").fill_null(0.0))
        .select(
            "category",
            "expert",
            (100 * pl.col("weight") / whole).alias("share"),
            (pl.col("weight") * pl.len().over("category") / whole).alias("times"),
        )
        .sort("category", "expert")
    )


def by_expert(used: pl.DataFrame, layer: int) -> pl.DataFrame:
    """What each expert is for, in words: expert, work (% of all gate weight), categories, redirected (% of its slots).

    A category belongs to an expert that takes more of it than of the work at large.
    """
    here = used.filter(pl.col("layer") == layer)
    work = here.group_by("expert").agg(pl.col("weight").sum(), (100 * pl.col("redirected").mean()).alias("redirected"))
    work = work.with_columns((100 * pl.col("weight") / pl.col("weight").sum()).alias("work"))
    own = (
        by_category(used, layer)
        .join(work.select("expert", "work"), on="expert", how="left")
        .with_columns((pl.col("share") / pl.col("work").clip(lower_bound=1e-9)).alias("lift"))
        .filter(pl.col("lift") >= LIKELY)
        .sort("lift", descending=True)
        .group_by("expert", maintain_order=True)
        .agg((pl.col("category") + " " + pl.col("lift").round(1).cast(pl.String) + "×").head(3).alias("names"))
        .select("expert", pl.col("names").list.join(", ").alias("categories"))
    )
    return (
        _experts(here)
        .join(work, on="expert", how="left")
        .join(own, on="expert", how="left")
        .select(
            "expert",
            pl.col("categories").fill_null("a bit of everything"),
            pl.col("work", "redirected").fill_null(0.0).round(1),
        )
    )


def _experts(here: pl.DataFrame) -> pl.DataFrame:
    """Every expert up to the last one that spoke."""
    last = here["expert"].max()
    return pl.DataFrame({"expert": range(int(last) + 1 if isinstance(last, int) else 0)}, schema={"expert": pl.Int32})
