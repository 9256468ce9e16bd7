from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from recsys.errors import InputError
from recsys.model.ranker import MoEBlock
from recsys.model.recommender import Recommender
from recsys.model.self_gate import SelfExperts
from recsys.training.config import TrainConfig
from recsys.training.evaluate import kept_out
from recsys.training.metrics import ndcg
from recsys.training.scoring import model_ranks
from recsys.training.self_balance import activation_balance
from recsys.training.train import train


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_value_and_gradient_are_those_of_the_definition(mix: float) -> None:
    draws = torch.Generator().manual_seed(0)
    tokens, experts = 7, 5
    scores_TE = torch.rand(tokens, experts, generator=draws).requires_grad_()
    active_TE = scores_TE.detach() > 0.4

    def reference(scores: list[list[float]]) -> float:
        """In Python's float64, term by term."""
        active = active_TE.tolist()
        of_experts = of_tokens = 0.0
        for e in range(experts):
            share = sum(active[t][e] for t in range(tokens)) / tokens
            of_experts += share * sum(scores[t][e] for t in range(tokens)) / tokens
        for t in range(tokens):
            of_tokens += sum(active[t]) / experts * sum(scores[t]) / experts
        return mix * of_experts / experts + (1 - mix) * of_tokens / tokens

    found = activation_balance(scores_TE, active_TE, mix)
    found.backward()
    scores = scores_TE.detach().double().tolist()
    assert float(found.detach()) == pytest.approx(reference(scores), rel=1e-5)
    assert scores_TE.grad is not None
    for t in range(tokens):
        for e in range(experts):
            up, down = ([list(row) for row in scores] for _ in range(2))
            up[t][e] += 1e-4
            down[t][e] -= 1e-4
            slope = (reference(up) - reference(down)) / 2e-4
            assert float(scores_TE.grad[t, e]) == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_concentration_costs_more_than_balance() -> None:
    """As many activations, on the same expert or spread; and on the same token or spread."""
    spread_TE = torch.eye(6)
    one_expert_TE = torch.zeros(6, 6)
    one_expert_TE[:, 0] = 1
    for mix, crowded_TE in ((1.0, one_expert_TE), (0.0, one_expert_TE.T)):
        crowded = activation_balance(crowded_TE, crowded_TE > 0, mix)
        assert float(crowded) > 3 * float(activation_balance(spread_TE, spread_TE > 0, mix))


def test_a_mix_out_of_bounds_is_named_and_a_softmax_run_keeps_its_name() -> None:
    with pytest.raises(InputError, match="balance_mix"):
        TrainConfig(balance_mix=1.1)
    assert "balance_mix" not in TrainConfig().to_json()
    own = TrainConfig.from_json({"model": {"gate": "self"}, "balance_mix": 0.25})
    assert TrainConfig.from_json(json.loads(json.dumps(own.to_json()))) == own


def test_a_model_whose_experts_decide_learns_and_keeps_its_density(
    ring: Path, tiny: TrainConfig, tmp_path: Path
) -> None:
    config = TrainConfig.from_json({"model": {"gate": "self", "k": 1, "gate_rank": 4}, "retrieval_epochs": 4}, tiny)
    config = dataclasses.replace(config, ranking_epochs=3)
    quiet = Console(file=io.StringIO())
    train(ring, tmp_path / "model", config, console=quiet)
    curve = json.loads((tmp_path / "model" / "training.json").read_text())["curve"]
    losses = [entry["loss"] for entry in curve if entry["phase"] == "ranking"]
    assert losses[-1] < 0.95 * losses[0]
    model = Recommender.from_pretrained(tmp_path / "model")
    for block in model.ranker.blocks:
        assert isinstance(block, MoEBlock)
        assert isinstance(block.experts, SelfExperts)
        assert float(block.experts.threshold) != 1.0
    kept, router = kept_out(tmp_path / "model", ring), model.free_router()
    ranks = model_ranks(model, kept.catalogue, kept.cases, router, config.hard_from)
    assert ndcg(ranks.served) > 0.4
    for plan in router.last_plans:
        assert plan is not None
        assert 0.85 < float(plan.load_E.sum()) / len(plan.expert_ids_TK) < 1.15  # k = 1, on other users' events
