"""Which users each expert works for, from the service's own sample; pure."""

from __future__ import annotations

import polars as pl

from dashboard.answers import ExpertUsersLayer

OWN = 1.25  # × an expert's share of all users from which a kind of user counts as its own
KIND_SCHEMA = {
    "kind": pl.String,
    "users": pl.Int64,
    "expert": pl.Int32,
    "share": pl.Float64,
    "times": pl.Float64,
}


def by_kind(layer: ExpertUsersLayer) -> pl.DataFrame:
    """One row per kind of user and expert: kind (and how many users), users, expert, share (%), times (× mean)."""
    experts = len(layer.share)
    rows = [
        (f"{kind.kind} · {kind.users}", kind.users, expert, 100 * share, share * experts)
        for kind in layer.kinds
        for expert, share in enumerate(kind.share)
    ]
    return pl.DataFrame(rows, schema=KIND_SCHEMA, orient="row")


def by_expert(layer: ExpertUsersLayer) -> pl.DataFrame:
    """One row per expert: expert, share (% of the users' gate weight), leads (users), kinds (its own, in words)."""
    rows = []
    for expert, (share, leads) in enumerate(zip(layer.share, layer.leads, strict=True)):
        lift = {kind.kind: kind.share[expert] / share for kind in layer.kinds} if share > 0 else {}
        own = sorted((name for name, times in lift.items() if times >= OWN), key=lambda name: -lift[name])[:3]
        rows.append((expert, round(100 * share, 1), leads, ", ".join(f"{name} {lift[name]:.1f}×" for name in own)))
    schema = {"expert": pl.Int32, "share": pl.Float64, "leads": pl.Int64, "kinds": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        pl.when(pl.col("kinds") == "").then(pl.lit("all alike")).otherwise(pl.col("kinds")).alias("kinds")
    )


def describe(layer: ExpertUsersLayer) -> str:
    """The heat map in words."""
    told = [f"E{expert}: {kinds}" for expert, kinds in by_expert(layer).select("expert", "kinds").iter_rows()]
    return "Users that each expert works for more than for others, by their history. " + "; ".join(told) + "."
