"""`recsys bench ...`: each starts the processes it measures, prints a table, and writes a csv with the machine."""

from __future__ import annotations

import asyncio
import csv
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from recsys.bench.board_commands import board, film, story
from recsys.bench.burst_commands import burst, burst_table, calm
from recsys.bench.fault_commands import health, soak
from recsys.bench.learning_commands import new_expert, online
from recsys.bench.machine import machine

if TYPE_CHECKING:
    from recsys.bench.burst import Service
    from recsys.stack.local import LocalStack

bench = typer.Typer(no_args_is_help=True, help=__doc__)

bench.command()(board)
bench.command()(film)
bench.command()(story)
bench.command()(burst)
bench.command()(burst_table)
bench.command()(calm)
bench.command()(health)
bench.command()(soak)
bench.command()(online)
bench.command()(new_expert)

Out = Annotated[Path | None, typer.Option(help="csv file to add the rows to, with the machine and the versions")]


@bench.command()
def freshness(
    world: Annotated[Path, typer.Option(help="Data set folder, as `recsys demo` leaves it")] = Path("var/demo/world"),
    model: Annotated[Path, typer.Option(help="Model folder")] = Path("var/demo/model"),
    seconds: float = 20.0,
    events: Annotated[float, typer.Option(help="Events per second")] = 200.0,
    queries: Annotated[float, typer.Option(help="Queries per second beside them")] = 50.0,
    out: Out = None,
) -> None:
    """Time from "event accepted" to the first answer that shows it."""
    from recsys.bench.freshness import FreshnessOptions, measure_freshness
    from recsys.stack.bootstrap import fill

    console = Console(stderr=True)
    with _stack(model, console) as stack:
        fill(world, stack.settings(), console)
        stack.wait_ready()
        options = FreshnessOptions(seconds=seconds, events_per_s=events, queries_per_s=queries)
        report("freshness", [asyncio.run(measure_freshness(stack.base, options))], out)


@bench.command()
def replay(
    dataset: Annotated[Path, typer.Argument(help="Data set folder")],
    model: Annotated[Path, typer.Argument(help="Model folder, trained with protocol `time` on the same data")],
    test_share: Annotated[float, typer.Option(help="The tail: share of all events, the newest")] = 0.1,
    questions: Annotated[int, typer.Option(help="Questions asked, spread over the tail")] = 2_000,
    out: Out = None,
) -> None:
    """A data set's own events through the stream in time order, with queries: the service beside popularity."""
    from recsys.bench.replay import replay_and_ask

    console = Console(stderr=True)
    with _stack(model, console, RECSYS_STATE__POPULAR_REFRESH_S="0.5") as stack:
        rows = replay_and_ask(stack, dataset, test_share=test_share, most=questions, console=console)
        report("replay", rows, out)


@bench.command()
def router(
    gates: Annotated[list[Path] | None, typer.Option(help="A file of `recsys record` too; may be repeated")] = None,
    layer: Annotated[int, typer.Option(help="MoE layer of the recordings")] = 0,
    seeds: Annotated[int, typer.Option(help="Streams of each kind")] = 1,
    quick: Annotated[bool, typer.Option(help="Small sizes: about a minute, pictures of little")] = False,
    out: Annotated[Path, typer.Option(help="csv file to write; times go to a second one beside it")] = Path(
        "docs/benchmarks/router.csv"
    ),
    images: Annotated[Path, typer.Option(help="Folder for the pictures")] = Path("docs/images"),
) -> None:
    """Policies and rivals in calm, a burst and a moving hot topic, beside the exact optimum; and what they cost."""
    from recsys.bench.gate_recording import load_gates
    from recsys.bench.routing import RoutingBench
    from recsys.bench.routing_report import run_and_report

    recorded = {path.stem: load_gates(path, layer=layer) for path in gates or ()}
    options = RoutingBench(seeds=tuple(range(seeds)), recorded=recorded)
    if quick:
        options = RoutingBench.quick(recorded)
    run_and_report(options, out, images, console=Console(), rounds=10 if quick else 40)


@bench.command()
def moe(
    threads: Annotated[str, typer.Option(help="Numbers of threads, with commas; a process for each")] = "1,2,4",
    quick: Annotated[bool, typer.Option(help="Three sizes for a moment: a look at it, no figures to quote")] = False,
    out: Annotated[Path, typer.Option(help="csv file to write")] = Path("docs/benchmarks/moe-cpu.csv"),
    images: Annotated[Path, typer.Option(help="Folder for the picture")] = Path("docs/images"),
) -> None:
    """The MoE layer on this CPU beside every other way to compute it, in calm and in a crowd; minutes."""
    from recsys.bench.moe import MoeBench, run_and_report

    if not all(part.isdecimal() for part in threads.split(",")):
        raise typer.BadParameter(f"{threads!r} are no numbers with commas", param_hint="threads")
    counts = (1,) if quick else tuple(int(part) for part in threads.split(","))
    run_and_report(MoeBench.of(quick=quick, threads=counts), out, images, console=Console())


@bench.command()
def redirect_cost(
    dataset: Annotated[Path, typer.Argument(help="Data set folder")],
    models: Annotated[
        list[Path], typer.Argument(help="Trained on it, with any seeds; beside them without redirect-ready training")
    ],
    policies: Annotated[str, typer.Option(help="Names, with commas")] = "topk,drop,expanded_drop,phase,price",
    requests: Annotated[int, typer.Option(min=2, help="Held-out events predicted, calm and in a crowd")] = 2_048,
    threads: Annotated[int, typer.Option(help="Threads; 0 = as many as there are cores")] = 0,
    out: Annotated[Path, typer.Option(help="csv file to write")] = Path("docs/benchmarks/redirect_cost.csv"),
    image: Annotated[Path, typer.Option(help="Picture to write")] = Path("docs/images/redirect_cost.png"),
) -> None:
    """NDCG@10 and gate score kept as slots become scarce, under each policy, calm and in a crowd."""
    import os

    import torch

    from recsys.bench.redirect_cost import RedirectOptions, over_seeds, plot
    from recsys.bench.redirect_cost import redirect_cost as run

    torch.set_num_threads(threads or os.cpu_count() or 1)
    options = RedirectOptions(policies=tuple(policies.split(",")), requests=requests)
    rows = [
        {"folder": model.name, **row} for model in models for row in run(model, dataset, options, Console(stderr=True))
    ]
    means = over_seeds(rows)
    table = Table("training", "traffic", "policy", "factor", "lost %", "range", "score kept", title="redirect cost")
    for row in means:
        if row["capacity_factor"] in (0.0, 0.5, 1.0):
            training = f"{row['models']} {'redirect-ready' if row['redirect_ready'] else 'not'}"
            lost = f"{row['lost_percent']:.2f} ± {row['lost_error']:.2f}"
            between = f"{row['lost_lowest']:.2f}, {row['lost_highest']:.2f}"
            named = (training, row["traffic"], row["policy"], str(row["capacity_factor"]))
            table.add_row(*named, lost, between, f"{row['score_kept']:.3f}")
    Console().print(table)
    add_to_csv(rows, out, replace=True)
    plot(means, image)


@bench.command()
def serve(
    peers_venv: Annotated[
        list[Path] | None,
        typer.Option(help="Virtual environment with peers in it (docs/serving.md says how to make one); repeatable"),
    ] = None,
    only: Annotated[str, typer.Option(help="Names of servers, with commas; default all that are installed")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each server; figures are medians")] = 3,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each load")] = 2.0,
    server_cores: Annotated[str, typer.Option(help="Where the servers run")] = "0,1",
    client_cores: Annotated[str, typer.Option(help="Where the load runs")] = "2,3",
    out: Annotated[Path, typer.Option(help="csv file to write; the real ranker's goes beside it")] = Path(
        "docs/benchmarks/serve.csv"
    ),
    image: Annotated[Path, typer.Option(help="Picture to write")] = Path("docs/images/serve.png"),
) -> None:
    """The same ranker behind the service and behind its peers, under the same load; about eight minutes."""
    from recsys.bench.serving.bench import ServeOptions, run_serve
    from recsys.bench.serving.plot import plot_serve

    options = ServeOptions(
        peers=tuple(peers_venv or ()),
        rounds=rounds,
        seconds=seconds,
        only=tuple(filter(None, (name.strip() for name in only.split(",")))),
        server_cores=tuple(map(int, server_cores.split(","))),
        client_cores=tuple(map(int, client_cores.split(","))),
    )
    small, real = run_serve(options, Console(stderr=True))
    for rows, path in ((small, out), (real, out.with_stem(f"{out.stem}_real"))):
        if rows:
            report("serve", rows, None)
            add_to_csv(rows, path, replace=True)
    plot_serve(small, image)


@contextmanager
def burst_services(world: Path, model: Path, kinds: Sequence[str], console: Console) -> Iterator[dict[str, Service]]:
    """One service of each kind, with the catalogue of a data set and nobody's history.

    Kinds are the ladder, "on" or "off", and `PADDED`: without the ladder, experts padded to the fullest one.
    """
    from recsys.bench.burst import PADDED, Service
    from recsys.data.dataset import Dataset
    from recsys.events.replay import publish_catalogue

    services = {}
    with ExitStack() as running:
        for kind in kinds:  # one after the other, or both would find the same port free
            ladder, engine = ("off", ("-m", "recsys.bench.padded_engine")) if kind == PADDED else (kind, None)
            stack = running.enter_context(_stack(model, console, engine, RECSYS_ENGINE__LADDER=ladder))
            publish_catalogue(Dataset.load(world), stack.settings(), console=console)
            stack.wait_ready()
            services[kind] = Service(stack.base, stack.admin_key)
        yield services


def report(title: str, rows: Sequence[Mapping[str, float | str]], out: Path | None) -> None:
    """Print rows as a table, and add them to a csv together with the machine."""
    table = Table(title=title, show_header=False)
    for name in rows[0]:
        table.add_row(name, *(f"{v:.4g}" if isinstance(v := row[name], float) else str(v) for row in rows))
    facts = machine()
    Console().print(table)
    Console().print("  ".join(f"{name} {value}" for name, value in facts.items()), style="dim", highlight=False)
    if out is not None:
        add_to_csv(rows, out)


def add_to_csv(rows: Sequence[Mapping[str, float | str]], out: Path, *, replace: bool = False) -> None:
    """Append rows, each with the machine and the versions; a new file gets a header. `replace` starts it afresh."""
    facts = machine()
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = replace or not out.exists()
    with out.open("w" if replace else "a", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *facts])
        if fresh:
            writer.writeheader()
        writer.writerows({**row, **facts} for row in rows)


@contextmanager
def _stack(model: Path, console: Console, engine: tuple[str, ...] | None = None, **more: str) -> Iterator[LocalStack]:
    """A service of the measurement's own, in a temporary folder; `engine` runs another kind of engine."""
    from recsys.stack.local import LocalStack
    from recsys.stack.processes import Processes

    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name, Processes(Path(name) / "logs") as processes:
        stack = LocalStack(processes, Path(name), console, port=8000, more=more)
        stack.engine_module = engine or stack.engine_module
        stack.start_redis()
        stack.start_service(model.resolve())
        yield stack
