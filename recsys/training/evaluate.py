"""Quality of a model folder on the events that its training kept out, beside what is simpler than a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from recsys.data.dataset import Dataset
from recsys.errors import InputError, ModelFolderError
from recsys.model.recommender import Recommender
from recsys.training.baselines import Popularity, baseline_ranks, tuned_item_to_item
from recsys.training.config import TrainConfig
from recsys.training.examples import Catalogue, Sequences
from recsys.training.metrics import hit_rate, ndcg
from recsys.training.protocol import Cases, build_cases, split
from recsys.training.scoring import model_ranks
from recsys.training.train import REPORT, digest

CASES_MAX = 10_000

Row = dict[str, Any]


def evaluate(
    model_folder: Path | str,
    dataset_folder: Path | str,
    protocol: str | None = None,
    *,
    cases_max: int = CASES_MAX,
    console: Console | None = None,
) -> list[Row]:
    """HR@10 and NDCG@10 over all items that the user has not had, for the model and for the baselines.

    `leave_one_out`: the last event of each user, from all before it. `time`: every event after the cut, from all of
    its user's events before it, those after the cut included, as a live service has them. Items are all that
    occur in the data set; one that training never saw has its content alone.

    Args:
        protocol: the one to measure by; default and only possible choice is the one that the model was trained for,
            because any other would ask for events that it has seen.
        cases_max: a sample of so many events is predicted if there are more.

    Returns:
        One row per method: `method`, `hr_10`, `ndcg_10`, `cases`, `protocol`, `items`.

    Raises:
        InputError: model and data or protocol do not belong together; nothing was kept out of training.
    """
    kept = kept_out(model_folder, dataset_folder, protocol, cases_max=cases_max)
    model, config, cases = kept.model, kept.config, kept.cases
    rows = len(kept.catalogue.item_ids) + 1
    router = model.free_router()
    ranks: dict[str, Tensor] = {}
    for method in track(("model", "popularity", "item-to-item"), "Evaluating", console=console, transient=True):
        if method == "model":
            both = model_ranks(model, kept.catalogue, cases, router, config.hard_from)
            ranks["served (retrieval, then MoE ranking)"] = both.served
            ranks["retrieval alone"] = both.retrieval
        elif method == "popularity":
            ranks[method] = baseline_ranks(Popularity(kept.train, rows), cases)
        else:
            ranks[method] = baseline_ranks(tuned_item_to_item(kept.train, rows, kept.validation), cases)
    return [
        {
            "method": method,
            "hr_10": round(hit_rate(rank), 4),
            "ndcg_10": round(ndcg(rank), 4),
            "cases": len(cases),
            "items": len(kept.catalogue.item_ids),
            "protocol": config.protocol,
        }
        for method, rank in ranks.items()
    ]


@dataclass(frozen=True, slots=True)
class KeptOut:
    """A model, and the events that its training kept out.

    Attributes:
        catalogue: all items that occur in the data set; one that training never saw has its content alone.
        cases: the test.
        validation: what chose the weights.
        train: the events trained on, as rows of `catalogue`.
    """

    model: Recommender
    config: TrainConfig
    catalogue: Catalogue
    cases: Cases
    validation: Cases
    train: Sequences


def kept_out(
    model_folder: Path | str, dataset_folder: Path | str, protocol: str | None = None, *, cases_max: int = CASES_MAX
) -> KeptOut:
    """Read a model and cut the data set as its training did. Arguments and errors are those of `evaluate`."""
    model = Recommender.from_pretrained(model_folder)
    config, data = _training(Path(model_folder))
    if protocol not in (None, config.protocol):
        raise InputError(f"protocol: {protocol!r}, but the model was trained for {config.protocol!r}", field="protocol")
    dataset = Dataset.load(dataset_folder)
    parts = split(dataset.interactions, config)
    if not parts.test.height:
        raise InputError("protocol: 'none' keeps no events out of training, so none can be predicted", field="protocol")
    trained = Catalogue.build(model.vocabulary.items, dataset.items, model.vocabulary)
    if digest(Sequences.build(parts.train, trained, model.vocabulary)) != data:
        raise InputError(f"{dataset_folder}: not the data that {model_folder} was trained on", field="dataset")
    known = dataset.interactions.filter(pl.col("kind") != "hide")["item_id"].unique().sort().to_list()
    catalogue = Catalogue.build(known, dataset.items, model.vocabulary)
    before = pl.concat([parts.train, parts.validation])
    validation = build_cases(
        parts.train, parts.validation, catalogue, model.vocabulary, most=config.validation_users, seed=config.seed
    )
    return KeptOut(
        model=model,
        config=config,
        catalogue=catalogue,
        cases=build_cases(before, parts.test, catalogue, model.vocabulary, most=cases_max, seed=config.seed),
        validation=validation,
        train=Sequences.build(parts.train, catalogue, model.vocabulary),
    )


def table(rows: list[Row]) -> Table:
    """Rows of `evaluate` for a terminal."""
    first = rows[0]
    result = Table(title=f"{first['protocol']}: {first['cases']} events, ranked among {first['items']} items")
    result.add_column("method")
    for name in ("HR@10", "NDCG@10"):
        result.add_column(name, justify="right")
    for row in rows:
        result.add_row(row["method"], f"{row['hr_10']:.4f}", f"{row['ndcg_10']:.4f}")
    return result


def _training(model_folder: Path) -> tuple[TrainConfig, str]:
    """How the model was trained, and the digest of the events."""
    path = model_folder / REPORT
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return TrainConfig.from_json(report["config"]), str(report["data"])
    except (OSError, json.JSONDecodeError, KeyError, InputError) as error:
        raise ModelFolderError(f"{path}: does not say how the model was trained: {error}") from error
