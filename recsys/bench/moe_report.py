"""Tables of `recsys bench moe`: times of every form, and what was promised beside what was reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.table import Table

from recsys.bench.moe_forms import DROPLESS, OURS, PADDED, STATIC

Row = dict[str, Any]
GRID = (128, 256, 16)
"""Sizes that the promises are about: width, hidden width, experts."""


def tables(rows: Sequence[Row]) -> list[Table]:
    """One of times for each type and number of threads, and one of promises."""
    groups = dict.fromkeys((row["dtype"], row["threads"]) for row in rows)
    return [*(_times([r for r in rows if (r["dtype"], r["threads"]) == group]) for group in groups), promises(rows)]


def _times(rows: Sequence[Row]) -> Table:
    first = rows[0]
    ceilings = f"GFLOP/s of a large mm {first['mm_gflops']:.0f}, of registers {first['peak_gflops']:.0f}"
    table = Table(
        title=f"{first['dtype']}, threads: {first['threads']} ({ceilings})",
        caption="us, calm / crowd: median; share of the floor, of a large mm; best torch form's time over this one's",
    )
    shapes = dict.fromkeys(row["shape"] for row in rows)
    table.add_column("form")
    for shape in shapes:
        one = next(row for row in rows if row["shape"] == shape)
        table.add_column(f"{shape}\n{one['tokens']}×{one['width']}\n×{one['hidden']}×{one['experts']}", justify="right")
    for name in dict.fromkeys(row["form"] for row in rows):
        cells = []
        for shape in shapes:
            by = {r["stream"]: r for r in rows if r["shape"] == shape and r["form"] == name}
            cells.append(_cell(by["calm"], by["crowd"]) if by else "")
        table.add_row(name, *cells, style="bold" if name in OURS[:2] else "")
    return table


def _cell(calm: Row, crowd: Row) -> str:
    return (
        f"{calm['us']:.0f} / {crowd['us']:.0f}\n"
        f"{calm['share_of_floor']:.0%} {calm['share_of_mm']:.0%} {calm['times_best_torch']:.2f}×"
    )


def promises(rows: Sequence[Row]) -> Table:
    """Each target with the worst that was reached over the sizes it speaks of."""
    table = Table(
        title="Promises at width 128, hidden 256, 16 experts, 64 to 4096 tokens", caption="worst size; each size"
    )
    for column in ("what", "target", "worst", "by tokens"):
        table.add_column(column, overflow="fold")
    for what, target, chosen, value in _promises(rows):
        found = sorted((row["tokens"], row["threads"], row["dtype"], row["stream"], value(row)) for row in chosen)
        if found:
            worst = (max if target.startswith("<=") else min)(number for *_, number in found)
            by_tokens: dict[int, list[float]] = {}
            for tokens, *_, number in found:
                by_tokens.setdefault(tokens, []).append(number)
            spans = ", ".join(f"{t}: {min(n):.2f}–{max(n):.2f}" for t, n in by_tokens.items())
            table.add_row(what, target, f"{worst:.2f}", spans)
    return table


def _promises(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[Row], Callable[[Row], float]]]:
    grid = [r for r in rows if (r["width"], r["hidden"], r["experts"]) == GRID and r["tokens"] <= 4096]

    def of(form: str, within: Sequence[Row] = grid, **facts: object) -> list[Row]:
        return [r for r in within if r["form"] == form and all(r[name] == fact for name, fact in facts.items())]

    best = "static slots, times the best torch form"
    for dtype in ("float32", "bfloat16"):
        many = [r for r in grid if r["threads"] > 1 and r["dtype"] == dtype]
        yield f"{best}, 2 to 4 threads, {dtype}", ">= 1.5", of(STATIC, many), lambda r: r["times_best_torch"]
    one = of(STATIC, threads=1, dtype="bfloat16")
    yield f"{best}, 1 thread, bfloat16", ">= 1.15", one, lambda r: r["times_best_torch"]
    for form in (STATIC, PADDED):
        target = "<= 1.10" if form == STATIC else "(beside it)"
        yield f"{form}, crowd over calm", target, of(form, stream="crowd"), lambda r: r["crowd_over_calm"]
    yield "dropless, times grouped_mm, all sizes", ">= 1.0", of(DROPLESS, rows), lambda r: r["times_grouped_mm"]
    for tokens, share in ((64, 0.60), (512, 0.75), (4096, 0.85)):
        narrow = [r for r in rows if r["width"] <= 128 and r["tokens"] == tokens and r["dtype"] == "float32"]
        for form in (STATIC, DROPLESS):
            what = f"{form}: share of a large mm, float32, 1 thread, {tokens} tokens"
            yield what, f">= {share:.2f}", of(form, narrow, threads=1), lambda r: r["share_of_mm"]
