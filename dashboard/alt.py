"""What each chart shows now, in one sentence for those who do not see it; pure."""

from __future__ import annotations

import polars as pl


def heat(over_time: pl.DataFrame, field: str, what: str) -> str:
    """Of `frames.load_over_time`: the busiest experts of the newest time bin, and of the whole window."""
    if over_time.is_empty():
        return f"No {what} in the last two minutes."
    last = over_time.filter(pl.col("start") == pl.col("start").max()).sort(field, "expert", descending=[True, False])
    now = ", ".join(f"expert {e} {x:.1f} times" for e, x in last.head(3).select("expert", field).iter_rows())
    peak = over_time.sort(field, descending=True).row(0, named=True)
    return (
        f"{what.capitalize()} relative to the mean, now: {now} the mean. Most in two minutes: expert {peak['expert']} "
        f"{peak[field]:.1f} times, {-peak['start']:.0f} seconds ago."
    )


def bars(now: pl.DataFrame) -> str:
    """Of `frames.load_now`."""
    if now.is_empty():
        return "No load now."
    wanted, worked = (now.sort(c, descending=True).row(0, named=True) for c in ("demand_x", "served_x"))
    return (
        f"Most wanted: expert {wanted['expert']}, {wanted['demand_x']:.1f} times the mean. Busiest: expert "
        f"{worked['expert']}, {worked['served_x']:.1f} times the mean. {now.height} experts."
    )


def flows(ribbons: pl.DataFrame) -> str:
    """Of `flows.flow_ribbons`: the largest three."""
    moved = ribbons.filter(pl.col("kind") == "ribbon").unique("flow").sort("rate", descending=True)
    if moved.is_empty():
        return "No work is moved."
    told = ", ".join(
        f"{flow.replace('→', 'to')} {rate:,.0f}" for flow, rate in moved.select("flow", "rate").iter_rows()
    )
    return f"Work moved, in slots per second, largest first: {', '.join(told.split(', ')[:3])}; {moved.height} flows."


def series(over_time: pl.DataFrame, unit: str, **named: str) -> str:
    """Lines over time: the newest, the least and the most of each; `named` = column -> what it is called."""
    if over_time.is_empty():
        return "Nothing to show yet."
    rows = over_time.sort("start")
    told = []
    for column, name in named.items():
        values = rows[column].drop_nulls()
        if not values.is_empty():
            told.append(f"{name} {values[-1]:,.4g} now, {_range(values)}")
    return f"{'; '.join(told)}. Unit: {unit}." if told else "Nothing to show yet."


def steps(over_time: pl.DataFrame) -> str:
    """Of `frames.queries_over_time`: pressure, and the step of the ladder."""
    if over_time.is_empty():
        return "Nothing to show yet."
    rows = over_time.sort("start")
    seen = rows.group_by("step", maintain_order=True).agg(bins=pl.len())
    share = ", ".join(f"{step} {100 * n / rows.height:.0f} percent" for step, n in seen.iter_rows())
    return f"Pressure {rows['pressure'][-1]:.2f} now, {_range(rows['pressure'])}. Step now {rows['step'][-1]}; {share}."


def _range(values: pl.Series) -> str:
    low, high = (float(v or 0.0) for v in (values.min(), values.max()))  # type: ignore[arg-type]
    return f"between {low:,.4g} and {high:,.4g} in the time shown"
