"""`recsys experts`: add, replace or remove one expert of a trained model, and see what that changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

experts = typer.Typer(no_args_is_help=True, help=__doc__)

ModelFolder = Annotated[Path, typer.Argument(help="Model folder")]
DatasetFolder = Annotated[Path, typer.Argument(help="Data set folder with events of that category")]
Out = Annotated[Path, typer.Argument(help="Model folder to write")]
Category = Annotated[str, typer.Option(help="What the expert is for: items of this category")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the users")]
OldShare = Annotated[
    float, typer.Option(min=0, max=1, help="Share of the tokens of other items that may choose the expert")
]
Threads = Annotated[int, typer.Option(min=1, help="Intra-op threads")]


@experts.command()
def add(
    model: ModelFolder,
    dataset: DatasetFolder,
    out: Out,
    category: Category,
    epochs: Epochs = 3,
    old_share_max: OldShare = 0.01,
    threads: Threads = 2,
) -> None:
    """One more expert for a category; all other weights stay, and so, within the bound, do old answers."""
    _change(model, dataset, out, category, epochs, old_share_max, threads, expert=None)


@experts.command()
def replace(
    model: ModelFolder,
    dataset: DatasetFolder,
    out: Out,
    category: Category,
    expert: Annotated[int, typer.Option(min=0, help="Its number, from 0")],
    epochs: Epochs = 3,
    old_share_max: OldShare = 0.01,
    threads: Threads = 2,
) -> None:
    """Train one expert anew for a category; tokens that had chosen it take their next choice."""
    _change(model, dataset, out, category, epochs, old_share_max, threads, expert=expert)


@experts.command()
def remove(
    model: ModelFolder, out: Out, expert: Annotated[int, typer.Option(min=0, help="Its number, from 0")]
) -> None:
    """One expert less; tokens that had chosen it take their next choice."""
    from recsys.model.modular import without_expert
    from recsys.model.recommender import Recommender

    before = Recommender.from_pretrained(model)
    after = without_expert(before, expert, version=f"{before.version}-{expert}")
    after.save_pretrained(out)
    Console().print(f"{out}: version {after.version}, {after.config.experts} experts", highlight=False)


def _change(
    model: Path,
    dataset: Path,
    out: Path,
    category: str,
    epochs: int,
    old_share_max: float,
    threads: int,
    *,
    expert: int | None,
) -> None:
    import torch

    from recsys.data.dataset import Dataset
    from recsys.model.recommender import Recommender
    from recsys.training.change_expert import change_expert, table_of
    from recsys.training.modular import ExpertOptions

    torch.set_num_threads(threads)
    before, options = Recommender.from_pretrained(model), ExpertOptions(epochs=epochs, old_share_max=old_share_max)
    change = change_expert(
        before, Dataset.load(dataset), category, options, expert=expert, console=Console(stderr=True)
    )
    change.model.save_pretrained(out)
    Console().print(table_of(change.effect))
    text = f"{out}: version {change.model.version}, expert {change.expert} is for {category}"
    Console().print(text, highlight=False)
