"""Policies side by side in the simulator: the same stream, the same lanes, one row for each and each phase."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from recsys.errors import InputError
from router.gates import GateSource
from router.lanes import Fault
from router.policies import get
from router.simulate import Scenario, Trace, recovery_s, simulate, summary


def compare(
    policies: Sequence[str], gates: GateSource, scenario: Scenario, *, console: Console
) -> list[dict[str, float | str]]:
    """Run each policy through the scenario.

    Returns:
        For each policy a row for the whole run (phase "all", with recovery time in seconds and moves of spare slots)
        and one for each phase.
    """
    rows: list[dict[str, float | str]] = []
    batches = sum(1 for _ in scenario.arrivals())
    with Progress(console=console, transient=True) as progress:
        for name in policies:
            policy, task = get(name), progress.add_task(name, total=batches)
            for done in simulate(policy, gates, scenario):
                if isinstance(done, Trace):
                    rows.extend(_rows(name, done, scenario))
                else:
                    progress.update(task, completed=done)
    return rows


def _rows(policy: str, trace: Trace, scenario: Scenario) -> list[dict[str, float | str]]:
    whole = {"recovery_s": recovery_s(trace, scenario), "moves": float(trace.moves)}
    rows: list[dict[str, float | str]] = [{"policy": policy, "phase": "all", **summary(trace, scenario), **whole}]
    for number, phase in enumerate(scenario.phases):
        part = summary(trace.of_phase(number), scenario)
        rows.append({"policy": policy, "phase": phase.name, **part, "recovery_s": math.nan, "moves": math.nan})
    return rows


def table(rows: Sequence[dict[str, float | str]], scenario: Scenario) -> Table:
    """The rows as people read them."""
    title = (
        f"{scenario.lanes} lanes at {scenario.slots_per_s:,.0f} slots/s, a batch of {scenario.tokens} tokens every "
        f"{1e3 * scenario.interval_s:.1f} ms"
    )
    shown = Table(title=title)
    names = ("policy", "phase", "p50 ms", "p99 ms", "goodput/s", "in time", "score kept", "redirected", "max/mean")
    for name in (*names, "switches/min", "recovery s"):
        shown.add_column(name, justify="left" if name in ("policy", "phase") else "right")
    for row in rows:
        f = {name: value for name, value in row.items() if isinstance(value, float)}
        recovery = "" if math.isnan(f["recovery_s"]) else "never" if math.isinf(f["recovery_s"]) else ""
        shown.add_row(
            str(row["policy"]) if row["phase"] == "all" else "",
            str(row["phase"]),
            f"{f['p50_ms']:.1f}",
            f"{f['p99_ms']:.1f}",
            f"{f['goodput_per_s']:,.0f}",
            f"{f['goodput_share']:.1%}",
            f"{f['score_kept']:.1%}",
            f"{f['redirected_share']:.1%}",
            f"{f['max_over_mean']:.2f}",
            f"{f['switches_per_min']:.0f}",
            recovery or ("" if math.isnan(f["recovery_s"]) else f"{f['recovery_s']:.2f}"),
            end_section=row["phase"] == scenario.phases[-1].name,
        )
    return shown


def parse_fault(text: str, option: str) -> Fault:
    """`LANE:FROM[:TO]` for a dead lane, `LANE:SPEED:FROM[:TO]` for a slow one; times in seconds.

    Raises:
        InputError: naming the option.
    """
    parts, slow = text.split(":"), option == "--slow"
    try:
        lane, numbers = int(parts[0]), [float(part) for part in parts[1:]]
        speed = numbers.pop(0) if slow else 0.0
        from_s, to_s = numbers if len(numbers) == 2 else (*numbers, math.inf)
    except (ValueError, IndexError) as error:
        wanted = "LANE:SPEED:FROM[:TO]" if slow else "LANE:FROM[:TO]"
        raise InputError(f"{option}: {text!r} is not {wanted}", field=option) from error
    return Fault(lane, speed, from_s, to_s)
