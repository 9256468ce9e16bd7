"""Give a trained model an expert for a category, and compare what it answers with what it answered before."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import polars as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from recsys.config import OnlineSettings
from recsys.data.dataset import Dataset
from recsys.data.splits import split_by_time
from recsys.errors import InputError
from recsys.model.modular import check_gate, with_expert, with_version
from recsys.model.recommender import Recommender
from recsys.online.student import Student, examples_of
from recsys.state.items import CatalogueItem
from recsys.training.examples import Catalogue, Sequences
from recsys.training.modular import Effect, ExpertOptions, Market, busiest, effect_of, fit_expert
from recsys.training.protocol import build_cases

CASES_MAX = 2_000
FIT_CASES_MAX = 1_000
NEWEST_MAX = 20_000  # events that new items get their vectors from


@dataclass(frozen=True, slots=True)
class Change:
    """A model with its new expert, and what it changed."""

    model: Recommender
    expert: int
    effect: Effect


def change_expert(
    before: Recommender,
    dataset: Dataset,
    category: str,
    options: ExpertOptions,
    *,
    expert: int | None = None,
    test_share: float = 0.1,
    console: Console | None = None,
) -> Change:
    """Add an expert for a category, or make expert `expert` one for it, learning from all but the newest events.

    Items that the model does not know first get vectors of their own, as the online learner gives them. The version
    ends with a digest of the weights: another expert for the same category is another version.

    Args:
        before: stays as it is.
        dataset: with events of the category; its newest `test_share` tell what changed.
        category: see there.
        options: see there.
        expert: None adds one.
        test_share: see `dataset`.
        console: where progress is shown.

    Raises:
        InputError: no item of that category has events, there is no such expert, or the gate is not `softmax`.
    """
    check_gate(before)
    parts = split_by_time(dataset.interactions.filter(pl.col("kind") != "hide"), test_share=test_share)
    version = f"{before.version}+{re.sub(r'[^a-z0-9]+', '-', category.lower())}"
    informed = _with_vectors(before, dataset, parts.train)
    known = dataset.interactions["item_id"].unique().sort().to_list()
    catalogue = Catalogue.build(known, dataset.items, informed.vocabulary)
    is_new_I = _rows_of(category, catalogue, dataset)
    sequences = Sequences.build(parts.train, catalogue, informed.vocabulary)
    if not bool(is_new_I[torch.from_numpy(sequences.items)].any()):
        raise InputError(f"category: no event before the last {test_share:.0%} is of {category!r}", field="category")
    seen = build_cases(
        parts.train.clear(), parts.train, catalogue, informed.vocabulary, most=FIT_CASES_MAX, seed=options.seed
    )
    fit_on = Market(catalogue, is_new_I, seen, options.candidates)
    if expert is None:
        after = with_expert(informed, copy_of=busiest(informed, fit_on), version=version)
        trained = after.config.experts - 1
    elif not 0 <= expert < before.config.experts:
        raise InputError(f"expert: {expert} is not from 0 to {before.config.experts - 1}", field="expert")
    else:
        after, trained = with_version(informed, version), expert
    fit_expert(after, trained, fit_on, sequences, options, console)
    after.version += f"-{_digest(after)}"
    test = build_cases(parts.train, parts.test, catalogue, informed.vocabulary, most=CASES_MAX, seed=options.seed)
    judged_on = Market(catalogue, is_new_I, test, options.candidates)
    return Change(after, trained, effect_of(informed, after, trained, judged_on))


def table_of(effect: Effect) -> Table:
    """What changed, for people."""
    table = Table("on the newest events, learned from by nobody", "before", "after")
    for name, what in (("category", "of the category"), ("others", "of other items")):
        table.add_row(f"NDCG@10, events {what}", f"{effect.ndcg_before[name]:.4f}", f"{effect.ndcg_after[name]:.4f}")
    table.add_row("first ten of the old items that stayed", "", f"{effect.overlap:.2%}")
    table.add_row("slots on the expert, items of the category", "", f"{effect.used:.2%}")
    table.add_row("slots on the expert, other items", "", f"{effect.used_by_others:.2%}")
    return table


def _digest(model: Recommender) -> str:
    whole = hashlib.sha256()
    for weight in model.state_dict().values():
        whole.update(weight.cpu().numpy().tobytes())
    return whole.hexdigest()[:8]


def _rows_of(category: str, catalogue: Catalogue, dataset: Dataset) -> Tensor:
    of_it = set(dataset.items.filter(pl.col("categories").list.contains(category))["item_id"])
    return torch.tensor([False, *(item_id in of_it for item_id in catalogue.item_ids)])


def _with_vectors(model: Recommender, dataset: Dataset, events: pl.DataFrame) -> Recommender:
    """A copy whose vocabulary has the items of these events, learned from the newest of all events."""
    items = [CatalogueItem.of_row(row) for row in dataset.items.iter_rows(named=True)]
    if not set(events["item_id"]) - set(model.vocabulary.items):
        return model
    student, settings = Student(model, items, OnlineSettings()), OnlineSettings()
    past, newest = events.head(max(0, len(events) - NEWEST_MAX)), events.tail(NEWEST_MAX)
    for batch in examples_of(newest, size=settings.batch_max, before=past):
        student.learn(batch)
    return student.graduate(model.version)
