"""Experts come and go; what is not about them stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recsys.errors import InputError
from recsys.model.modular import with_expert, with_version, without_expert
from recsys.model.ranker import Ranked
from recsys.model.recommender import Recommender
from router.router import Router


@pytest.fixture
def model(tiny_model: Path) -> Recommender:
    return Recommender.from_pretrained(tiny_model)


def ranked(model: Recommender) -> Ranked:
    table_ID = torch.randn(40, model.config.width, generator=torch.Generator().manual_seed(0))
    table_ID[0] = 0
    with torch.inference_mode():
        encoded = model.encode(torch.tensor([[3, 5, 7], [2, 9, 0]]), torch.ones(2, 3, dtype=torch.int64), table_ID)
        router = Router.unconstrained(model.config.moe_layers, model.config.experts)
        return model.rank(encoded, torch.arange(1, 31).repeat(2, 1), table_ID, router)


def test_a_new_expert_that_nobody_chooses_changes_no_answer(model: Recommender) -> None:
    grown = with_expert(model, copy_of=3, version="grown")
    assert (grown.config.experts, grown.version) == (model.config.experts + 1, "grown")
    before, after = ranked(model), ranked(grown)
    for old, new in zip(before.plans, after.plans, strict=True):
        assert torch.equal(old.expert_ids_TK, new.expert_ids_TK)
    torch.testing.assert_close(after.logits_BNG, before.logits_BNG)


def test_what_was_added_can_be_taken_away(model: Recommender) -> None:
    back = without_expert(with_expert(model, copy_of=0, version="x"), model.config.experts, version=model.version)
    old, new = model.state_dict(), back.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert back.config == model.config


def test_tokens_of_a_removed_expert_take_their_next_choice(model: Recommender) -> None:
    before = ranked(model).plans[0]
    after = ranked(without_expert(model, 2, version="less")).plans[0]
    had_T = (before.expert_ids_TK == 2).any(dim=1)
    assert bool(had_T.any())
    renumbered_TK = torch.where(before.expert_ids_TK > 2, before.expert_ids_TK - 1, before.expert_ids_TK)
    assert torch.equal(after.expert_ids_TK[~had_T], renumbered_TK[~had_T])
    assert int(after.expert_ids_TK.max()) < model.config.experts - 1


def test_wrong_numbers_are_named(model: Recommender) -> None:
    for expert in (-1, model.config.experts):
        with pytest.raises(InputError, match=f"expert: {expert} is not from 0 to {model.config.experts - 1}"):
            with_expert(model, copy_of=expert, version="x")
    least = model
    while least.config.experts > least.config.k:
        least = without_expert(least, 0, version="x")
    with pytest.raises(InputError, match="2 of 2 are needed per token"):
        without_expert(least, 0, version="y")
    assert with_version(model, "named").version == "named"
