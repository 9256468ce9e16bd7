"""`recsys bench online` and `recsys bench new-expert`: what learning after training is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def online(
    world: Annotated[Path, typer.Option(help="Data set folder, as `recsys demo` leaves it")] = Path("var/demo/world"),
    new_items: Annotated[int, typer.Option(min=1, help="Items that training does not see")] = 120,
    publish_every: Annotated[int, typer.Option(min=1, help="Events between two publications")] = 500,
    threads: Annotated[int, typer.Option(min=1, help="Intra-op threads")] = 1,
    out: Annotated[Path, typer.Option(help="csv file to write")] = Path("docs/benchmarks/online.csv"),
) -> None:
    """The newest fifth of a world's events, with new items among them: NDCG@10 with the learner and without."""
    import torch

    from recsys.bench.commands import add_to_csv
    from recsys.bench.online import OnlineOptions, measure, table_of
    from recsys.config import Settings

    torch.set_num_threads(threads)
    console = Console(stderr=True)
    options = OnlineOptions(world=world, new_items=new_items, publish_every=publish_every)
    outcome = measure(options, Settings().online, console)
    rows = outcome.rows()
    Console().print(table_of(rows))
    Console().print(f"published {outcome.published}, rolled back {outcome.rolled_back}", highlight=False)
    add_to_csv(rows, out, replace=True)


def new_expert(
    category: Annotated[str, typer.Option(help="Category that training does not see")],
    world: Annotated[Path, typer.Option(help="Data set folder, as `recsys demo` leaves it")] = Path("var/demo/world"),
    threads: Annotated[int, typer.Option(min=1, help="Intra-op threads")] = 1,
) -> None:
    """A model trained without a category, and the expert added for it: NDCG@10 and what stayed of old answers."""
    import torch

    from recsys.bench.new_expert import measure_new_expert
    from recsys.training.change_expert import table_of
    from recsys.training.modular import ExpertOptions

    torch.set_num_threads(threads)
    change = measure_new_expert(world, category, ExpertOptions(), Console(stderr=True))
    Console().print(table_of(change.effect))
