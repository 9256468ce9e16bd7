from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recsys.errors import InputError
from recsys.model.config import ModelConfig
from recsys.model.modular import with_expert, without_expert
from recsys.model.ranker import MoEBlock
from recsys.model.recommender import Recommender
from recsys.model.self_gate import SelfExperts, activation_weights
from router.policies import names
from router.router import Router

MakeModel = Callable[..., Recommender]


def experts_of(model: Recommender) -> list[SelfExperts]:
    found = [block.experts for block in model.ranker.blocks if isinstance(block, MoEBlock)]
    assert all(isinstance(experts, SelfExperts) for experts in found)
    return found  # type: ignore[return-value]


@pytest.fixture
def deciding(make_model: MakeModel) -> MakeModel:
    """A model whose experts decide by themselves, at a threshold that about half of them pass."""

    def make(**changes: object) -> Recommender:
        model = make_model(**{"gate": "self", "gate_rank": 4} | changes)
        for experts in experts_of(model):
            experts.threshold.fill_(0.95)
        return model

    return make


def rank(model: Recommender, table_ID: Tensor, history: Tensor, candidates: Tensor, router: Router) -> Tensor:
    with torch.inference_mode():
        encoded = model.encode(history, (history != 0).long(), table_ID)
        logits_BNG: Tensor = model.rank(encoded, candidates, table_ID, router).logits_BNG
        return logits_BNG


def experts(**changes: object) -> SelfExperts:
    torch.manual_seed(3)
    shape: dict[str, object] = {"items": 0, "width": 16, "experts": 8, "expert_hidden": 8, "gate": "self"}
    return SelfExperts(ModelConfig.from_json(shape | changes)).train()


def active_per_token(one: SelfExperts, scores_TE: Tensor) -> float:
    """Mean number of experts above the threshold, no token having more than its slots."""
    return float((scores_TE > one.threshold).sum(1).clamp(max=one.slots).float().mean())


@pytest.mark.parametrize(("k", "count"), [(1, 4), (2, 8), (3, 8)])
def test_training_holds_the_mean_number_of_active_experts(k: int, count: int) -> None:
    one = experts(k=k, experts=count)
    for _ in range(60):
        scores_TE = one.activations(torch.randn(2_048, 16)).detach()
    assert abs(active_per_token(one, scores_TE) / k - 1) < 0.05
    with torch.no_grad():
        one.scale_E.mul_(1 + torch.rand(count))  # some experts grow louder
    assert active_per_token(one, one.activations(torch.randn(2_048, 16)).detach()) > 1.3 * k
    for _ in range(60):
        scores_TE = one.activations(torch.randn(2_048, 16)).detach()
    assert abs(active_per_token(one, scores_TE) / k - 1) < 0.05


def test_with_no_more_slots_than_k_every_expert_is_active() -> None:
    one = experts(k=4, experts=4)
    for _ in range(200):
        scores_TE = one.activations(torch.randn(64, 16)).detach()
    assert active_per_token(one, scores_TE) == 4


def test_serving_and_an_empty_batch_leave_the_threshold_alone() -> None:
    one = experts()
    one.activations(torch.randn(0, 16))
    one.eval().activations(torch.randn(64, 16))
    assert float(one.threshold) == 1.0


def test_an_activation_is_how_strongly_an_expert_s_own_projection_answers() -> None:
    one, x_TD = experts(gate_rank=4).eval(), torch.randn(5, 16)
    with torch.no_grad():
        one.scale_E.copy_(torch.rand(8) + 0.5)
        one.offset_E.copy_(torch.rand(8))
    hidden_ETR = x_TD.double() @ one.probe_EDR.double()
    strength_TE = hidden_ETR.norm(dim=2).T / 2  # square root of the rank
    expected_TE = (one.scale_E * strength_TE - one.offset_E).clamp(min=0)
    torch.testing.assert_close(one.activations(x_TD).double(), expected_TE, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.up_ED2H[..., :8].double(), one.probe_EDR.double() @ one.gate_ERH.double())


def test_weights_are_activations_and_empty_slots_weigh_nothing() -> None:
    weights_TK = activation_weights(torch.tensor([[0.5, 2.0, 1.5]]), torch.tensor([[1, 2, -1]]))
    assert weights_TK.tolist() == [[2.0, 1.5, 0.0]]


def test_alone_or_among_strangers_the_scores_are_the_same(deciding: MakeModel, table_ID: Tensor) -> None:
    model = deciding()
    history_BL = torch.randint(0, 42, (32, 9))
    candidates_BN = torch.stack([torch.randperm(41)[:20] + 1 for _ in range(32)])
    together = model.free_router()
    rank(model, table_ID, history_BL.flip(0), candidates_BN, together)  # an earlier batch leaves no trace
    together_BNG = rank(model, table_ID, history_BL, candidates_BN, together)
    used = [int((plan.expert_ids_TK >= 0).sum()) / len(plan.expert_ids_TK) for plan in together.last_plans if plan]
    assert all(0.5 < mean < 3.5 for mean in used)
    for row in (0, 13, 31):
        alone_NG = rank(model, table_ID, history_BL[row : row + 1], candidates_BN[row : row + 1], model.free_router())[
            0
        ]
        torch.testing.assert_close(alone_NG, together_BNG[row], atol=1e-5, rtol=0)


def test_a_token_that_no_expert_takes_has_the_shared_one(deciding: MakeModel, table_ID: Tensor) -> None:
    model, router = deciding(), deciding().free_router()
    for one in experts_of(model):
        one.threshold.fill_(1e6)
    history_BL, candidates_BN = torch.tensor([[3, 9, 27]]), torch.arange(1, 41)[None]
    found_BNG = rank(model, table_ID, history_BL, candidates_BN, router)
    assert all(plan is not None and not plan.load_E.any() for plan in router.last_plans)
    for one in experts_of(model):
        torch.nn.init.zeros_(one.down_EHD)
        one.threshold.fill_(0)
    torch.testing.assert_close(found_BNG, rank(model, table_ID, history_BL, candidates_BN, router), atol=1e-5, rtol=0)


@pytest.mark.parametrize("policy", names())
def test_every_policy_serves_such_a_model(deciding: MakeModel, table_ID: Tensor, policy: str) -> None:
    model = deciding()
    router = Router(policy, capacity_factor=1.0, layers=model.config.moe_layers, experts=model.config.experts)
    for _ in range(2):
        logits_BNG = rank(model, table_ID, torch.randint(1, 42, (4, 9)), torch.randint(1, 42, (4, 20)), router)
    assert logits_BNG.isfinite().all()
    for plan in router.last_plans:
        assert plan is not None
        assert plan.expert_ids_TK.shape[1] == (model.config.slots if policy == "threshold" else model.config.k)


def test_the_gradient_reaches_all_that_decides_and_computes(deciding: MakeModel, table_ID: Tensor) -> None:
    model = deciding().train()
    history_BL = torch.randint(1, 42, (8, 9))
    encoded = model.encode(history_BL, torch.ones_like(history_BL), table_ID)
    logits_BNG = model.rank(encoded, torch.randint(1, 42, (8, 30)), table_ID, model.free_router()).logits_BNG
    logits_BNG.square().mean().backward()
    for block in model.ranker.blocks:
        for name, weight in block.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            assert weight.grad.abs().max() > 0, name


def test_the_folder_keeps_the_gate_and_its_threshold(deciding: MakeModel, table_ID: Tensor, tmp_path: Path) -> None:
    model = deciding()
    model.save_pretrained(tmp_path / "model")
    loaded = Recommender.from_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    assert [float(one.threshold) for one in experts_of(loaded)] == pytest.approx([0.95, 0.95])
    history_BL, candidates_BN = torch.tensor([[3, 9, 27]]), torch.arange(1, 41)[None]
    expected = rank(model, table_ID, history_BL, candidates_BN, model.free_router())
    assert torch.equal(expected, rank(loaded, table_ID, history_BL, candidates_BN, loaded.free_router()))


def test_a_softmax_model_is_written_as_it_was_before_there_was_another(model: Recommender, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    head = json.loads((tmp_path / "model" / "config.json").read_text())
    assert not {"gate", "gate_rank"} & set(head["model"])
    assert Recommender.from_pretrained(tmp_path / "model").config.gate == "softmax"
    assert model.free_router().policy.name == "topk"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gate": "relu"}, "gate: 'relu'"),
        ({"gate": None}, "gate: None"),
        ({"gate": "self", "shared_expert": False}, "gate: 'self' needs shared_expert"),
        ({"gate": "self", "gate_rank": 0}, "gate_rank: 0"),
        ({"gate_rank": 1.5}, "gate_rank: 1.5"),
    ],
)
def test_a_gate_out_of_bounds_is_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ModelConfig(**{"items": 5} | changes)  # type: ignore[arg-type]


def test_slots_are_at_most_the_experts() -> None:
    assert ModelConfig(items=5, experts=8, k=2, gate="self").slots == 4
    assert ModelConfig(items=5, experts=3, k=2, gate="self").slots == 3
    assert ModelConfig(items=5, experts=8, k=2).slots == 2
    config = ModelConfig(items=5, gate="self", gate_rank=8)
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_experts_that_share_a_threshold_are_not_changed_one_by_one(deciding: MakeModel) -> None:
    with pytest.raises(InputError, match="gate: experts of a 'self' gate"):
        with_expert(deciding(), copy_of=0, version="more")
    with pytest.raises(InputError, match="gate: experts of a 'self' gate"):
        without_expert(deciding(), 0, version="less")
