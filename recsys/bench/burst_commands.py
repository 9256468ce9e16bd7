"""`recsys bench burst` and `recsys bench calm`: what a crowd does, and what being ready for one costs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

World = Annotated[Path, typer.Option(help="Data set folder, as `recsys demo` leaves it")]
Model = Annotated[Path, typer.Option(help="Model folder")]


def burst(
    world: World = Path("var/demo/world"),
    model: Model = Path("var/demo/model"),
    policies: Annotated[str, typer.Option(help="Names, with commas")] = "topk-padded,topk,drop,price",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds over all of them")] = 1,
    quick: Annotated[bool, typer.Option(help="Short phases: a look at it, no figures to quote")] = False,
    crowds: Annotated[str, typer.Option(help="Kinds of crowd, with commas")] = "uniform,one category",
    calm_s: Annotated[float, typer.Option(min=1, help="Before the crowd")] = 5.0,
    crowd_s: Annotated[float, typer.Option(min=1, help="Of ten times the rate")] = 15.0,
    after_s: Annotated[float, typer.Option(min=1, help="After it")] = 5.0,
    calm_share: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="Rate in calm over saturation; default: 0.3, and 0.6 with a lane time"),
    ] = None,
    lane_us: Annotated[
        float, typer.Option(min=0, max=1_000, help="Emulate one device per expert: µs each takes for a slot; 0 = off")
    ] = 0.0,
    out: Annotated[Path, typer.Option(help="csv file to write; with a lane time, one beside it")] = Path(
        "docs/benchmarks/burst.csv"
    ),
    images: Annotated[Path, typer.Option(help="Folder for the picture")] = Path("docs/images"),
) -> None:
    """Calm, a crowd of ten times the rate, calm: goodput, p99, refusals, score kept, with and without the ladder.

    About eight minutes. `topk-padded` is plain top-k where every expert runs as many rows as the fullest one. With
    `--lane-us` every expert has an emulated device of its own, so that a step lasts as long as its fullest expert.
    """
    from dataclasses import replace

    from recsys.bench.burst import BurstOptions, Questions, arms, calm_share_of, crowds_of, run_burst
    from recsys.bench.burst_plots import plot_burst
    from recsys.bench.burst_report import markdown_of
    from recsys.bench.burst_rows import rows_of
    from recsys.bench.commands import add_to_csv, burst_services, report

    console = Console(stderr=True)
    compared = arms(policies.split(","), ("off", "on"))
    options = BurstOptions(compared, calm_s=calm_s, crowd_s=crowd_s, after_s=after_s)
    options = replace(
        BurstOptions.quick(compared) if quick else options,
        repeats=repeats,
        crowds=crowds_of(crowds.split(",")),
        calm_share=calm_share_of(lane_us) if calm_share is None else calm_share,
        lane_us=lane_us,
    )
    name = "_lanes" if lane_us else ""
    questions = Questions.of(world, options.seed)
    kinds = list(dict.fromkeys(arm.service for arm in compared))
    with burst_services(world, model, kinds, console) as services:
        saturation, trials = asyncio.run(run_burst(services, questions, options, console))
    rows = rows_of(trials, saturation, options)
    report("burst", rows, None)
    add_to_csv(rows, out.with_stem(out.stem + name), replace=True)
    plot_burst(trials, saturation, options, images / f"burst{name}.png")
    typer.echo(markdown_of(rows))


def burst_table(
    csv_file: Annotated[Path, typer.Argument(help="As `recsys bench burst` wrote it")] = Path(
        "docs/benchmarks/burst.csv"
    ),
) -> None:
    """The tables of docs/serving.md from the figures of a crowd: what each arm did, and what was aimed at."""
    import csv

    from recsys.bench.burst_report import markdown_of

    with csv_file.open(newline="") as file:
        typer.echo(markdown_of(list(csv.DictReader(file))))


def calm(
    world: World = Path("var/demo/world"),
    model: Model = Path("var/demo/model"),
    policy: Annotated[str, typer.Option(help="With the ladder on")] = "price",
    questions: Annotated[int, typer.Option(min=10, help="Asked of both services, one at a time")] = 2_000,
    out: Annotated[Path, typer.Option(help="csv file to write")] = Path("docs/benchmarks/calm.csv"),
) -> None:
    """What the ladder and its policy cost without a load, beside plain top-k without a ladder; half a minute."""
    from recsys.bench.burst import Questions
    from recsys.bench.calm import measure_calm
    from recsys.bench.commands import add_to_csv, burst_services, report

    console = Console(stderr=True)
    asked = [question.body for question in Questions.of(world, 0).calm][:questions]
    with burst_services(world, model, ("off", "on"), console) as services:
        row = asyncio.run(measure_calm(services["on"], policy, services["off"], asked))
    report("calm", [row], None)
    add_to_csv([row], out, replace=True)
