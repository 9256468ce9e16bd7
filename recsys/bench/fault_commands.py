"""`recsys bench health` and `recsys bench soak`: what happens when things go wrong."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

World = Annotated[Path, typer.Option(help="Data set folder, as `recsys demo` leaves it")]
Model = Annotated[Path, typer.Option(help="Model folder")]


def health(
    world: World = Path("var/demo/world"),
    model: Model = Path("var/demo/model"),
    policies: Annotated[str, typer.Option(help="Names, with commas")] = "topk,drop,price",
    share: Annotated[float, typer.Option(min=0.01, max=1.0, help="Offered rate relative to saturation")] = 0.3,
    slow_us: Annotated[float, typer.Option(help="Microseconds each slot of the slow expert takes longer")] = 100.0,
    out: Annotated[Path, typer.Option(help="csv file to write")] = Path("docs/benchmarks/health.csv"),
    images: Annotated[Path, typer.Option(help="Folder for the picture")] = Path("docs/images"),
) -> None:
    """One expert turns slow, then one dies, under a steady load: p99, its load and the score kept, per policy."""
    from recsys.bench.burst import Questions
    from recsys.bench.commands import add_to_csv, burst_services, report
    from recsys.bench.health import HealthOptions, health_rows, run_health
    from recsys.bench.health_plots import plot_health

    console = Console(stderr=True)
    options = replace(HealthOptions(), policies=tuple(policies.split(",")), share=share, slow_us=slow_us)
    bodies = [question.body for question in Questions.of(world, 0).calm]
    with burst_services(world, model, ("on",), console) as services:
        service = services["on"]
        saturation, trials = asyncio.run(run_health(service.base, service.admin_key, bodies, options, console))
    rows = health_rows(trials, saturation, options)
    report("health", rows, None)
    add_to_csv(rows, out, replace=True)
    plot_health(trials, options, images / "health.png")


def soak(
    minutes: Annotated[float, typer.Option(min=0.1)] = 30.0,
    world: World = Path("var/demo/world"),
    model: Model = Path("var/demo/model"),
    share: Annotated[float, typer.Option(min=0.01, max=1.0, help="Offered rate relative to saturation")] = 0.9,
    kill_every: Annotated[float, typer.Option(help="Seconds between kills, on average")] = 10.0,
    out: Annotated[Path, typer.Option(help="csv file to add the row to")] = Path("docs/benchmarks/soak.csv"),
    images: Annotated[Path, typer.Option(help="Folder for the picture")] = Path("docs/images"),
) -> None:
    """Load while engines, API workers and Redis are killed at random; ends with 1 if a promise was broken."""
    import tempfile

    from recsys.bench.commands import report
    from recsys.bench.soak import SoakOptions, questions, run_soak, soak_row
    from recsys.bench.soak_plots import plot_soak
    from recsys.bench.victims import Victims
    from recsys.data.dataset import Dataset
    from recsys.events.replay import publish_catalogue
    from recsys.stack.local import LocalStack
    from recsys.stack.processes import Processes

    console, options = Console(stderr=True), SoakOptions(minutes=minutes, share=share, kill_every_s=kill_every)
    asked, categories = questions(world)
    with tempfile.TemporaryDirectory(prefix="recsys-soak-") as name, Processes(Path(name) / "logs") as processes:
        more = {"RECSYS_API__WORKERS": "2", "RECSYS_STATE__POPULAR_REFRESH_S": "0.5"}
        stack = LocalStack(processes, Path(name), console, more=more, engines=2)
        stack.start_redis()
        stack.start_service(model.resolve())
        publish_catalogue(Dataset.load(world), stack.settings(), console=console)
        stack.wait_ready()
        with Victims(processes, ["redis", "worker", "api", *stack.engine_names]) as victims:
            run = asyncio.run(run_soak(stack.base, victims, asked, options))
    row = soak_row(run, options, categories)
    report("soak", [row], out)
    plot_soak(run, options, images / "soak.png")
    if row["broken_promises"]:
        raise typer.Exit(1)
