"""The `recsys` command: every subcommand is a thin call of a function that a program could call too."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before anything imports torch

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recsys.bench.commands import bench
from recsys.bench.simulation_commands import record, simulate
from recsys.config import Settings
from recsys.errors import InputError, RecsysError
from recsys.training.expert_commands import experts

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__, add_completion=False)
serve = typer.Typer(no_args_is_help=True, help="Run one process of the service.")
dead = typer.Typer(no_args_is_help=True, help="Events that could not be applied.")
app.add_typer(serve, name="serve")
app.add_typer(dead, name="dead-letters")
app.add_typer(bench, name="bench")
app.add_typer(experts, name="experts")

progress = Console(stderr=True)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where world, model, Redis file and logs are kept")] = Path("var/demo"),
    port: Annotated[int, typer.Option(help="Port of the API, if it is free")] = 8000,
    board_port: Annotated[int, typer.Option(help="Port of the board, if it is free")] = 8501,
    rate: Annotated[float, typer.Option(help="Requests per second of the demo's traffic")] = 20.0,
    traffic: Annotated[bool, typer.Option(help="Start traffic")] = True,
    board: Annotated[bool, typer.Option(help="Start the board")] = True,
    engines: Annotated[int, typer.Option(min=0, max=64, help="Engine processes; 0 = inside the API's")] = 1,
    learner: Annotated[bool, typer.Option(help="Learn from the stream while serving")] = False,
) -> None:
    """Everything on this machine: Redis, world, model, worker, engine, API, board, traffic. Ctrl-C ends it."""
    from recsys.stack.demo import DemoOptions, run_demo

    options = DemoOptions(folder, port, board_port, rate, traffic, board, engines=engines, learner=learner)
    run_demo(options, Console())


@app.command()
def burst(
    arms: Annotated[
        str, typer.Option(help="Policies with commas; POLICY:off is without the ladder")
    ] = "topk:off,topk,drop,price",
    folder: Annotated[Path, typer.Option(help="World and model of the demo; made if absent")] = Path("var/demo"),
    api: Annotated[str, typer.Option(help="A running service of that world to ask instead, by its base URL")] = "",
    key: Annotated[str, typer.Option(envvar="RECSYS_API__ADMIN_KEY", help="Its admin key")] = "demo",
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Rounds")] = 1,
    quick: Annotated[bool, typer.Option(help="Short phases: a look at it, no figures to quote")] = False,
    lane_us: Annotated[
        float, typer.Option(min=0, max=1_000, help="Emulate one device per expert: µs each takes for a slot; 0 = off")
    ] = 0.0,
    out: Annotated[Path, typer.Option(help="Folder for burst.csv, burst.md and burst.png")] = Path("var/burst"),
) -> None:
    """Calm, ten times the rate on one category, calm, under each policy in turn: table, csv and picture."""
    from recsys.bench.burst_story import StoryOptions, tell_story

    options = StoryOptions(
        arms=tuple(arms.split(",")),
        folder=folder,
        api=api,
        key=key,
        repeats=repeats,
        quick=quick,
        lane_us=lane_us,
        out=out,
    )
    tell_story(options, Console())


@app.command()
def tune(
    model: Annotated[Path, typer.Argument(help="Model folder")] = Path("var/demo/model"),
    seconds: Annotated[float, typer.Option(min=0.01, max=60, help="Time per layout and size of micro-batch")] = 1.0,
    out: Annotated[Path, typer.Option(help="File of settings to write")] = Path("tune.env"),
) -> None:
    """Measure engines x threads x micro-batch on this machine with a model, and write the settings that fit."""
    from recsys.engine import tune as tuning

    config, cores = _settings().engine, len(os.sched_getaffinity(0))
    tried = tuning.measure(model, tuning.layouts(cores, len(tuning.gpus(config.device))), config, seconds=seconds)
    chosen = tuning.best(tried, wait_max_ms=config.wait_max_ms)
    tuning.show(tried, chosen, Console())
    out.write_text(tuning.as_env(chosen, cores=cores, model=model.resolve()), encoding="utf-8")
    print(f"Written to {out}; engines to start: {chosen.layout.engines}")


@serve.command()
def api() -> None:
    """The REST process."""
    from recsys.api.app import run_api

    run_api(_settings())


@serve.command()
def engine() -> None:
    """The process that owns a device."""
    from recsys.engine.server import run_engine

    run_engine(_settings())


@serve.command()
def colocated() -> None:
    """API and engine in one process, `RECSYS_API__WORKERS` times: the fastest on CPUs with a small model."""
    from recsys.colocated import run_colocated

    run_colocated(_settings())


@serve.command()
def worker() -> None:
    """The process that applies events."""
    from recsys.events.worker import run_worker

    run_worker(_settings())


@serve.command()
def learner() -> None:
    """The process that learns from the stream, and publishes what it learned as versions of the model."""
    from recsys.online.learner import run_learner

    run_learner(_settings())


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A MovieLens folder, or a csv or parquet file")],
    out: Annotated[Path, typer.Argument(help="Data set folder to write")],
    column: Annotated[
        list[str] | None, typer.Option(help="For a file: user=COLUMN, item=COLUMN, ts=COLUMN, kind=..., value=...")
    ] = None,
) -> None:
    """Turn a data set into the project's own tables."""
    from recsys.data.commands import import_data

    mapping = dict(_pair(text) for text in column) if column else None
    dataset = import_data(source, out, mapping)
    print(f"{len(dataset.interactions):,} interactions, {len(dataset.users):,} users, {len(dataset.items):,} items")


@app.command()
def world(
    out: Annotated[Path, typer.Argument(help="Data set folder to write")],
    users: int = 2_000,
    items: int = 1_200,
    days: int = 60,
    seed: int = 7,
) -> None:
    """Make a synthetic world: items, users whose tastes drift, and what they did until now."""
    from recsys.data.commands import make_world

    dataset = make_world(
        out, users=users, items=items, days=days, seed=seed, now_ms=int(time.time() * 1e3), progress=True
    )
    print(f"{len(dataset.interactions):,} interactions, {users:,} users, {items:,} items")


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="Data set folder")],
    out: Annotated[Path, typer.Argument(help="Model folder to write")],
    preset: Annotated[str, typer.Option(help="demo, ml-100k or ml-1m")] = "demo",
    config: Annotated[Path | None, typer.Option(help="JSON file whose fields replace the preset's")] = None,
    encoder_from: Annotated[
        Path | None,
        typer.Option(help="Model folder of the same data whose encoder is taken; only the ranker is trained"),
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Ignore a checkpoint of an interrupted run")] = False,
    threads: Annotated[int, typer.Option(help="Threads; 0 = as many as there are cores")] = 0,
) -> None:
    """Fit a model to a data set; an interrupted run goes on where it stopped."""
    import torch

    from recsys.training.config import TrainConfig
    from recsys.training.config import preset as preset_of
    from recsys.training.train import train as run

    torch.set_num_threads(threads or os.cpu_count() or 1)
    chosen = TrainConfig.from_json(json.loads(config.read_text()), preset_of(preset)) if config else preset_of(preset)
    run(dataset, out, chosen, resume=not fresh, encoder_from=encoder_from, console=progress)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder")],
    dataset: Annotated[Path, typer.Argument(help="Data set folder")],
    as_json: Annotated[bool, typer.Option("--json", help="Results as JSON on standard output")] = False,
    threads: Annotated[int, typer.Option(help="Threads; 0 = as many as there are cores")] = 0,
) -> None:
    """Full-rank HR@10 and NDCG@10 on the events kept out of training, beside popularity and item-to-item."""
    import torch

    from recsys.training.evaluate import evaluate as run
    from recsys.training.evaluate import table

    torch.set_num_threads(threads or os.cpu_count() or 1)
    rows = run(model, dataset, console=progress)
    if as_json:
        json.dump(rows, sys.stdout, indent=2)
    else:
        Console().print(table(rows))


@app.command()
def catalogue(dataset: Annotated[Path, typer.Argument(help="Data set folder")]) -> None:
    """Publish the items of a data set as events."""
    from recsys.data.dataset import Dataset
    from recsys.events.replay import publish_catalogue

    publish_catalogue(Dataset.load(dataset), _settings(), console=progress)


@app.command()
def replay(
    dataset: Annotated[Path, typer.Argument(help="Data set folder")],
    last: Annotated[int | None, typer.Option(help="Only this many newest interactions")] = None,
    rate: Annotated[float | None, typer.Option(help="Events per second; default as fast as they are applied")] = None,
) -> None:
    """Send the interactions of a data set through the stream, in time order."""
    from recsys.data.dataset import Dataset
    from recsys.events.replay import replay as run

    run(Dataset.load(dataset), _settings(), last=last, rate_per_s=rate, console=progress)


app.command()(record)
app.command()(simulate)


@dead.command("list")
def dead_list(count: Annotated[int, typer.Option(help="At most this many, oldest first")] = 20) -> None:
    """Show dead letters with their reasons, one JSON object per line."""
    from recsys.events.dead_letters import list_dead_letters

    for letter in list_dead_letters(_settings(), count=count):
        print(json.dumps(letter))


@dead.command("replay")
def dead_replay(
    count: Annotated[int, typer.Option(help="At most this many, oldest first")] = 1_000,
    letter: Annotated[list[str] | None, typer.Option(help="Only the letter with this id; may be repeated")] = None,
    fix: Annotated[
        list[str] | None, typer.Option(help="FIELD=VALUE to set in every letter; no value removes it")
    ] = None,
) -> None:
    """Send dead letters through the stream again; those that fail again come back."""
    from recsys.events.dead_letters import replay_dead_letters

    fixes = dict(text.partition("=")[::2] for text in fix or ())
    print(f"{replay_dead_letters(_settings(), count=count, ids=letter, fix=fixes)} replayed")


@app.command()
def settings(
    markdown: Annotated[bool, typer.Option(help="The reference table of `docs/settings.md` instead")] = False,
) -> None:
    """All settings with their present values."""
    from recsys.config import reference_table

    print(reference_table() if markdown else _settings().model_dump_json(indent=2))


def _settings() -> Settings:
    """Settings from the environment, with a wrong one reported like any other wrong input."""
    from pydantic import ValidationError

    from recsys.logging import configure_logging

    try:
        found = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "RECSYS_" + "__".join(str(part).upper() for part in first["loc"])
        raise InputError(f"{name}: {first['msg']}", field=name) from None
    configure_logging(as_json=found.log_json)
    return found


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not value:
        raise InputError(f"--column: {text!r} is not NAME=COLUMN", field="--column")
    return name, value


def main() -> None:
    """Run the command; an expected error is one line: exit code 2 for wrong input, 1 for what is not there."""
    try:
        app()
    except RecsysError as error:
        progress.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, InputError) else 1)


if __name__ == "__main__":
    main()
