"""Who hands work to whom: the largest redirections now, and the ribbons that show them; pure."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dashboard.answers import LoadSnapshot

PRESENT_MS = 2_000
FLOWS_MAX = 30
LABEL_GAP = 0.07  # least distance of two labels, as a share of the chart's height
RIBBON_STEPS = 12


def flows_now(snapshots: Sequence[LoadSnapshot], layer: int) -> pl.DataFrame:
    """The largest redirections of the last two seconds: from, to, rate (slots/s), largest first."""
    newest = max((s.ts for s in snapshots), default=0)
    present = [s for s in snapshots if s.ts > newest - PRESENT_MS]
    flows = [flow for s in present if (load := s.layer(layer)) is not None for flow in load.flow]
    engines = len({s.engine for s in present}) or 1
    seconds = sum(s.interval_ms for s in present) / 1_000 / engines or 1.0
    return (
        pl.DataFrame(flows, schema={"from": pl.Int32, "to": pl.Int32, "slots": pl.Int64}, orient="row")
        .group_by("from", "to")
        .agg((pl.col("slots").sum() / seconds).alias("rate"))
        .filter(pl.col("rate") > 0)
        .sort(["rate", "from", "to"], descending=[True, False, False])
        .head(FLOWS_MAX)
    )


def flow_ribbons(flows: pl.DataFrame) -> pl.DataFrame:
    """Redirections as curved ribbons between givers (x=0) and takers (x=1); heights are shares of the whole.

    Rows of kind `ribbon` (flow, giver, rate, x, y, y2), `giver` and `taker` (at, label), `note` if nothing moves.
    """
    schema = {
        "kind": pl.String, "flow": pl.String, "x": pl.Float64, "y": pl.Float64, "y2": pl.Float64, "at": pl.Float64,
        "label": pl.String, "giver": pl.Int32, "rate": pl.Float64,
    }  # fmt: skip
    if flows.is_empty():
        note = {"kind": "note", "x": 0.5, "at": 0.5, "label": "No work is moved."}
        return pl.DataFrame([note], schema=schema)
    left, right = _stack(flows, "from"), _stack(flows, "to")
    ribbons = [
        {
            "kind": "ribbon", "flow": f"E{giver} → E{taker}", "giver": giver, "rate": rate, "x": x,
            "y": _curve(x, left[giver, taker][0], right[giver, taker][0]),
            "y2": _curve(x, left[giver, taker][1], right[giver, taker][1]),
        }
        for giver, taker, rate in flows.iter_rows()
        for x in (i / RIBBON_STEPS for i in range(RIBBON_STEPS + 1))
    ]  # fmt: skip
    labels = _labels(flows, "from", left) + _labels(flows, "to", right)
    return pl.DataFrame(ribbons + labels, schema=schema)


def _stack(flows: pl.DataFrame, side: str) -> dict[tuple[int, int], tuple[float, float]]:
    """Where each flow touches one side: experts in order, with gaps between them; 0 is the top, 1 the bottom."""
    order = flows.sort("from", "to") if side == "from" else flows.sort("to", "from")
    experts = order[side].n_unique()
    gap = 0.02 if experts > 1 else 0.0
    scale = (1 - gap * (experts - 1)) / float(order["rate"].sum())
    spans: dict[tuple[int, int], tuple[float, float]] = {}
    y, previous = 0.0, None
    for giver, taker, rate in order.iter_rows():
        expert = giver if side == "from" else taker
        if previous is not None and expert != previous:
            y += gap
        spans[giver, taker] = (y, y + rate * scale)
        y, previous = y + rate * scale, expert
    return spans


def _curve(x: float, begin: float, end: float) -> float:
    """Smooth step: a ribbon leaves and arrives horizontally."""
    return begin + (end - begin) * x * x * (3 - 2 * x)


def _labels(
    flows: pl.DataFrame, side: str, spans: dict[tuple[int, int], tuple[float, float]]
) -> list[dict[str, object]]:
    """One label per expert of a side, in the middle of its ribbons but never on top of another label."""
    rates = flows.group_by(side).agg(pl.col("rate").sum()).sort(side)
    index = 0 if side == "from" else 1
    middles = []
    for expert in rates[side]:
        own = [span for pair, span in spans.items() if pair[index] == expert]
        middles.append((min(a for a, _ in own) + max(b for _, b in own)) / 2)
    gap = min(LABEL_GAP, 1 / len(middles))
    at: list[float] = []
    for i, middle in enumerate(middles):
        room_below = 1 - gap * (len(middles) - 1 - i)
        at.append(min(max(middle, at[-1] + gap if at else 0.0), room_below))
    kind, sign, x = ("giver", "−", 0.0) if side == "from" else ("taker", "+", 1.0)
    return [
        {"kind": kind, "x": x, "at": y, "rate": rate, "label": f"E{expert} {sign}{_short(rate)}"}
        for y, (expert, rate) in zip(at, rates.iter_rows(), strict=True)
    ]


def _short(rate: float) -> str:
    """12,345 -> 12k: labels are for the eye, tooltips hold the figure."""
    return f"{rate / 1_000:.0f}k" if rate >= 10_000 else f"{rate / 1_000:.1f}k" if rate >= 1_000 else f"{rate:.0f}"
