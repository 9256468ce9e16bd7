"""`recsys bench film`, `story` and `board`: the board in a real run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recsys.stack.local import LocalStack

Folder = Annotated[Path, typer.Option(help="World and model of the demo; made if absent")]


def film(
    out: Annotated[Path, typer.Argument(help="GIF file to write")] = Path("docs/images/board_burst.gif"),
    folder: Folder = Path("var/demo"),
    rate: Annotated[
        float | None,
        typer.Option(min=1, max=100, help="Calm requests per second; the crowd is ten times. Default by saturation"),
    ] = None,
    lane_us: Annotated[
        float, typer.Option(min=0, max=1_000, help="Emulates one device per expert: µs each takes a slot; 0 = off")
    ] = 60.0,
    category: Annotated[str, typer.Option(help="What the crowd wants; default drawn by popularity")] = "",
) -> None:
    """The board in the same crowd under plain top-k and under price, as an animation of a real run."""
    from recsys.bench.film import FilmOptions
    from recsys.bench.film import film as run

    console = Console(stderr=True)
    tastes = folder.resolve() / "world" / "tastes.json"
    run(
        lambda: _filled(folder, console),
        tastes,
        out,
        FilmOptions(rate=rate, category=category, lane_us=lane_us),
        console,
    )


def story(
    out: Annotated[Path, typer.Argument(help="Folder for the pictures")] = Path("docs/images"),
    folder: Folder = Path("var/demo"),
) -> None:
    """The board's one-minute story, played by a browser on a service of its own: a picture of each step."""
    from recsys.bench.story_pictures import story_pictures

    console = Console(stderr=True)
    story_pictures(lambda: _filled(folder, console), folder.resolve() / "world" / "tastes.json", out, console)


def board(
    folder: Folder = Path("var/demo"),
    viewers: Annotated[int, typer.Option(min=1, max=100, help="Open boards in the turns with viewers")] = 10,
    rate: Annotated[float, typer.Option(min=1, help="Requests per second in the turns")] = 40.0,
    overload: Annotated[float, typer.Option(min=1, help="Requests per second in the overload")] = 1_500.0,
    minutes: Annotated[float, typer.Option(min=0.1, max=600, help="Of overload, with one viewer and one tab")] = 1.0,
    turns: Annotated[int, typer.Option(min=1, max=100, help="Pairs of turns")] = 5,
    quick: Annotated[bool, typer.Option(help="Short turns: a look at it, no figures to quote")] = False,
    out: Annotated[
        Path | None, typer.Option(help="csv file to add the row to; NAME-minutes.csv beside it has the minutes")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Picture to write")] = None,
) -> None:
    """Serving p99 with open boards over p99 without, redraw times and memory of board and tab in overload."""
    from recsys.bench.board import BoardOptions, measure_board
    from recsys.bench.board_plots import plot_board
    from recsys.bench.commands import add_to_csv, report

    options = BoardOptions(viewers=viewers, rate=rate, overload_rate=overload, overload_s=60 * minutes, turns=turns)
    if quick:
        options = replace(options, turn_s=5.0, turns=2, overload_s=10.0)
    console = Console(stderr=True)
    with _filled(folder, console) as stack:
        run = asyncio.run(measure_board(stack, folder / "world", options, console))
    report("board", [run.row], out)
    if out is not None:
        add_to_csv(run.minutes, out.with_stem(f"{out.stem}-minutes"), replace=True)
    if image is not None:
        plot_board(run, options, image)


@contextmanager
def _filled(folder: Path, console: Console) -> Iterator[LocalStack]:
    """A service of the measurement's own with the demo's world, its recent history and its model."""
    from recsys.bench.commands import _stack
    from recsys.stack.bootstrap import ensure_model, ensure_world, fill

    world, model = folder / "world", folder / "model"
    ensure_world(world, console)
    ensure_model(model, world, console)
    with _stack(model, console) as stack:
        fill(world, stack.settings(), console)
        stack.wait_ready()
        yield stack
