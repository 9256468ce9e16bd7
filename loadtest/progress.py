"""A line on the terminal that says how the run goes."""

from __future__ import annotations

from collections.abc import Callable

import gevent
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.distributed import Gathering
from loadtest.open_loop import OpenLoop
from loadtest.shapes import ENDLESS, phase_at, phases_of


def show_progress(current: Callable[[], OpenLoop | Gathering | None]) -> None:
    """Draw a bar for the run that `current` returns, until it has ended."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task("waiting")
        while (run := current()) is None or run.ended_s is None:
            if run is not None:
                total = None if run.options.shape in ENDLESS else run.options.duration
                bar.update(task, description=_state(run), total=total, completed=run.elapsed_s, refresh=True)
            gevent.sleep(0.25)


def _state(run: OpenLoop | Gathering) -> str:
    phase = phase_at(phases_of(run.options), run.elapsed_s)
    counts = run.summary.recommendations.values()
    ok, shed, errors = (sum(getattr(c, name) for c in counts) for name in ("ok", "shed", "errors"))
    name = "ending" if phase is None else f"{phase.name} {phase.rate_per_s:g}/s"
    if phase is not None and phase.crowd_share:
        name += f" on {run.category}"
    return f"{name}  ok {ok}  shed {shed}  errors {errors}  in flight {run.outstanding}"
