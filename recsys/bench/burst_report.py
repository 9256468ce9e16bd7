"""What a crowd did, as the tables of docs/serving.md: each arm, and what is aimed at beside what was found.

Rows are those of `burst_rows`, or the same as a csv file gives them back. Rounds are taken together by their medians.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from recsys.bench.burst import PADDED

Arms = dict[tuple[str, str, str], dict[str, float]]  # (policy, ladder, crowd) -> figures
COLUMNS: tuple[tuple[str, str], ...] = (
    ("answers/s", "{accepted_per_s:,.0f}"),
    ("over saturation", "{goodput_over_saturation:.2f}"),
    ("over padded", "{answers_over_padded:.2f}"),
    ("p99 in calm → crowd, ms", "{calm_p99_ms:.0f} → {crowd_p99_ms:.0f}"),
    ("p99 over the same rate", "{crowd_p99_over_same_rate:.2f}"),
    ("gate score kept", "{score_kept_crowd:.1%}"),
    ("NDCG@10", "{ndcg_crowd:.3f}"),
)
OURS = ("price", "on")


def markdown_of(rows: Sequence[Mapping[str, float | str]]) -> str:
    """Both tables, with a line above that says where the experts were and what the service could do."""
    arms = _arms(rows)
    first = next(iter(arms.values()))
    lane_us = first.get("lane_us", 0.0)
    where = f"One emulated device per expert, {lane_us:g} µs a slot" if lane_us else "All experts on one device"
    lines = [
        f"{where}; plain top-k without the ladder saturates at {first['saturation_per_s']:,.0f} answers/s.",
        "",
        "| policy | ladder | crowd | " + " | ".join(name for name, _ in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for (policy, ladder, crowd), figures in arms.items():
        name = f"**{policy}** | **{ladder}**" if (policy, ladder) == OURS else f"{policy} | {ladder}"
        lines.append(f"| {name} | {crowd} | " + " | ".join(form.format(**figures) for _, form in COLUMNS) + " |")
    lines += ["", "| aim | found |", "|---|---|"]
    lines += [f"| {aim} | {found} |" for aim, found in _aims(arms)]
    return "\n".join(lines)


def _arms(rows: Sequence[Mapping[str, float | str]]) -> Arms:
    rounds: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for row in rows:
        arm = (str(row["policy"]), str(row["ladder"]), str(row["crowd"]))
        rounds.setdefault(arm, []).append({name: found for name in row if (found := _number(row[name])) is not None})
    return {
        arm: {name: median(figures[name] for figures in found) for name in found[0]} for arm, found in rounds.items()
    }


def _number(value: float | str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _aims(arms: Arms) -> list[tuple[str, str]]:
    ours = {crowd: figures for (policy, ladder, crowd), figures in arms.items() if (policy, ladder) == OURS}
    if not ours:
        return []
    unladdered = {
        crowd: max(
            (one["accepted_per_s"] for (_, ladder, where), one in arms.items() if (ladder, where) == ("off", crowd)),
            default=float("nan"),
        )
        for crowd in ours
    }
    bad = sum(figures["neither_200_nor_503"] for figures in arms.values())
    slowest = max(figures["recovery_s"] for figures in arms.values())

    def each(form: str, holds: Callable[[str], bool]) -> str:
        told = [f"{crowd} {form.format(best=unladdered[crowd], **ours[crowd])}" for crowd in ours]
        return ", ".join(told) + f": {_verdict([holds(crowd) for crowd in ours])}"

    found = [
        (
            "p99 of answers in the crowd at most 1.2 × the p99 at the same rate in calm",
            each("{crowd_p99_over_same_rate:.2f}", lambda crowd: ours[crowd]["crowd_p99_over_same_rate"] <= 1.2),
        ),
        (
            "answers in the crowd at least .95 of saturation",
            each("{goodput_over_saturation:.2f}", lambda crowd: ours[crowd]["goodput_over_saturation"] >= 0.95),
        ),
        (
            "... and more than any policy without the ladder",
            each(
                "{accepted_per_s:,.0f}/s, at most {best:,.0f}/s",
                lambda crowd: ours[crowd]["accepted_per_s"] > unladdered[crowd],
            ),
        ),
        ("no answer but 200 and 503", f"{bad:.0f} others in {len(arms)} arms: {_verdict([not bad])}"),
        ("back within 2 s of the end", f"{slowest:.1f} s at most: {_verdict([slowest <= 2])}"),
    ]
    if (flash := ours.get("one category")) is not None and (PADDED, "off", "one category") in arms:
        ratio = flash["answers_over_padded"]
        found.append(
            (
                "`price` answers twice as many as padded top-k in the flash crowd",
                f"{ratio:.2f} ×: {_verdict([ratio >= 2])}",
            )
        )
    if all(("drop", "on", crowd) in arms for crowd in ours):
        found.append(
            (
                "`price` loses less score than `drop`",
                each("{score_kept_crowd:.1%}", lambda crowd: ours[crowd]["score_kept_over_drop"] > 0),
            )
        )
    return found


def _verdict(held: Sequence[bool]) -> str:
    return "met" if all(held) else "missed" if not any(held) else "met in part"
