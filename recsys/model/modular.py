"""Experts as modules: a model with one more, or one less, and everything else as it was.

An expert is, in every Mixture-of-Experts block, one column of the gate, one entry of the balancing bias and one slice
of the expert weights. Gates are normalised over the experts that a token chose, so an expert that a token does not
choose has no part in its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from recsys.errors import InputError
from recsys.model.ranker import MoEBlock
from recsys.model.recommender import Recommender

_ROWS = ("gate.weight", "bias_E", "experts.up_ED2H", "experts.down_EHD")


def with_expert(model: Recommender, *, copy_of: int, version: str) -> Recommender:
    """A copy with one expert more, the last one: a twin of another that no token chooses yet.

    Raises:
        InputError: there is no expert `copy_of`.
    """
    _check(model, copy_of)
    grown = _with_rows(model, [*range(model.config.experts), copy_of], version)
    with torch.no_grad():
        for block in grown.ranker.blocks:
            assert isinstance(block, MoEBlock)
            block.bias_E[-1] = block.bias_E.min() - 1.0  # scores are at most 1
    return grown


def without_expert(model: Recommender, expert: int, *, version: str) -> Recommender:
    """A copy with one expert less; tokens that had chosen it take their next choice. Later experts move up by one.

    Raises:
        InputError: there is no such expert, or a token could no longer choose `k`.
    """
    _check(model, expert)
    if model.config.experts <= model.config.k:
        raise InputError(
            f"expert: {expert} cannot go, {model.config.k} of {model.config.experts} are needed per token",
            field="expert",
        )
    return _with_rows(model, [e for e in range(model.config.experts) if e != expert], version)


def with_version(model: Recommender, version: str) -> Recommender:
    """A copy under another name."""
    return _with_rows(model, range(model.config.experts), version)


def check_gate(model: Recommender) -> None:
    """Raises InputError: experts that decide by themselves have no gate column, and share one threshold."""
    if model.config.gate != "softmax":
        raise InputError(f"gate: experts of a {model.config.gate!r} gate cannot be changed one by one", field="gate")


def _check(model: Recommender, expert: int) -> None:
    check_gate(model)
    if not 0 <= expert < model.config.experts:
        raise InputError(f"expert: {expert} is not from 0 to {model.config.experts - 1}", field="expert")


def _with_rows(model: Recommender, rows: Sequence[int], version: str) -> Recommender:
    changed = Recommender(replace(model.config, experts=len(rows)), model.vocabulary, version)
    index = torch.tensor(list(rows))
    changed.load_state_dict(
        {name: weight[index] if name.endswith(_ROWS) else weight for name, weight in model.state_dict().items()}
    )
    return changed.eval()
