"""The parts of the service as tables, and what is wrong with them in words; pure."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dashboard.calls import CallCounts
from dashboard.system_answers import System

ROLES = {
    "api": ("API", "nobody answers"),
    "engine": ("engine", "recommendations are popular items"),
    "worker": ("worker", "events wait in the stream and change nothing"),
    "learner": ("learner", ""),  # may be absent
}
BEHIND_S = 5.0  # a reader of the stream this far behind is worth a word


def troubles(system: System) -> list[str]:
    """What somebody should look at, one sentence each; empty if nothing."""
    told = []
    for role, (name, without) in ROLES.items():
        if without and not any(one.role == role and one.present for one in system.processes):
            told.append(f"No {name} is heard: {without}.")
    for one in system.processes:
        if not one.present:
            who = f"{ROLES.get(one.role, (one.role, ''))[0]} {one.name} (process {one.pid} on {one.host})"
            told.append(f"The {who} fell silent {one.heard_s:.0f} s ago: it died, hangs, or does not reach Redis.")
    return told + [
        f"Group {group.name} of the stream is {duration(group.behind_s)} behind."
        for group in system.stream.groups
        if group.behind_s >= BEHIND_S
    ]


def processes(system: System, *, now_ms: int) -> pl.DataFrame:
    """One row per process; the silent last."""
    rows = [
        {
            "what": ROLES.get(one.role, (one.role, ""))[0],
            "name": one.name,
            "heard": "now" if one.present else f"silent for {one.heard_s:.0f} s",
            "memory, MB": round(one.memory_mb, 1),
            "up for": duration(((now_ms if one.present else one.ts) - one.since) / 1_000),
            "model": one.model or "–",
            "code": one.version or "–",
            "process": f"{one.pid} on {one.host}",
        }
        for one in sorted(system.processes, key=lambda one: not one.present)
    ]
    names = ("what", "name", "heard", "memory, MB", "up for", "model", "code", "process")
    schema = {name: pl.Float64 if name == "memory, MB" else pl.String for name in names}
    return pl.DataFrame(rows, schema=schema, orient="row")


def groups(system: System) -> pl.DataFrame:
    """One row per consumer group of the event stream."""
    schema = {
        "group": pl.String,
        "waiting, events": pl.Int64,
        "pending, events": pl.Int64,
        "behind, s": pl.Float64,
        "consumers": pl.Int64,
    }
    rows = [(g.name, g.waiting, g.pending, round(g.behind_s, 1), g.consumers) for g in system.stream.groups]
    return pl.DataFrame(rows, schema=schema, orient="row")


def doors(system: System, calls: Sequence[CallCounts]) -> pl.DataFrame:
    """What each API process did with queries: now (/s, over the last seconds kept) and since it started."""
    schema = {
        "API process": pl.String,
        "answered, /s": pl.Float64,
        "refused, /s": pl.Float64,
        "answered": pl.Int64,
        "of them popular": pl.Int64,
        "refused (503)": pl.Int64,
        "of them unread": pl.Int64,
        "beyond rate (429)": pl.Int64,
    }
    rows = []
    for one in system.processes:
        if (now := CallCounts.of(one)) is None:
            continue
        kept = [c for c in calls if c.process == now.process and now.ts - 5_000 <= c.ts < now.ts]
        seconds = (now.ts - kept[0].ts) / 1_000 if kept else 0.0
        rates = (
            (
                (now.counts.answered - kept[0].counts.answered) / seconds,
                (now.counts.refused + now.counts.limited - kept[0].counts.refused - kept[0].counts.limited) / seconds,
            )
            if seconds > 0
            else (None, None)
        )
        c = now.counts
        rows.append((one.name, *rates, c.answered, c.fallback, c.refused, c.turned_away, c.limited))
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("answered, /s", "refused, /s").round(1))


def letters(system: System, *, now_ms: int) -> str:
    """How many events could not be applied, since when, and what is wrong with the newest."""
    dead = system.dead_letters
    if not dead.count:
        return "None: every event could be applied."
    ago = f", the newest {duration((now_ms - dead.newest_ms) / 1_000)} ago" if dead.newest_ms else ""
    why = ", ".join(f"`{name}` {count}" for name, count in sorted(dead.reasons.items(), key=lambda pair: -pair[1]))
    return f"**{dead.count:,}** events could not be applied{ago}." + (f" Wrong in the newest: {why}." if why else "")


def duration(seconds: float) -> str:
    """A length of time in its two largest units."""
    left = max(0, round(seconds))
    told: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if left >= size and len(told) < 2:
            told.append(f"{left // size} {unit}")
            left %= size
        elif told:
            break
    return " ".join(told) or "0 s"
