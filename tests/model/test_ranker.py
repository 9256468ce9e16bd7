from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recsys.model.ranker import MoEBlock
from recsys.model.recommender import Recommender
from router.router import Router


def rank(model: Recommender, table_ID: Tensor, history: Tensor, candidates: Tensor, router: Router) -> Tensor:
    with torch.inference_mode():
        encoded = model.encode(history, (history != 0).long(), table_ID)
        logits_BNG: Tensor = model.rank(encoded, candidates, table_ID, router).logits_BNG
        return logits_BNG


def test_alone_or_among_strangers_the_scores_are_the_same(model: Recommender, table_ID: Tensor, router: Router) -> None:
    history_BL = torch.randint(0, 42, (32, 9))
    candidates_BN = torch.stack([torch.randperm(41)[:20] + 1 for _ in range(32)])
    together_BNG = rank(model, table_ID, history_BL, candidates_BN, router)
    for row in (0, 13, 31):
        alone_NG = rank(model, table_ID, history_BL[row : row + 1], candidates_BN[row : row + 1], router)[0]
        torch.testing.assert_close(alone_NG, together_BNG[row], atol=1e-5, rtol=0)
        assert torch.equal(alone_NG[:, 0].argsort(), together_BNG[row, :, 0].argsort())


def test_a_candidate_does_not_depend_on_the_others(model: Recommender, table_ID: Tensor, router: Router) -> None:
    history_BL = torch.tensor([[3, 9, 27]])
    many_NG = rank(model, table_ID, history_BL, torch.arange(1, 41)[None], router)[0]
    one_NG = rank(model, table_ID, history_BL, torch.tensor([[17]]), router)[0]
    torch.testing.assert_close(one_NG[0], many_NG[16], atol=1e-5, rtol=0)


def test_padding_candidates_are_harmless(model: Recommender, table_ID: Tensor, router: Router) -> None:
    history_BL = torch.tensor([[3, 9, 27], [0, 0, 0]])
    padded_BNG = rank(model, table_ID, history_BL, torch.tensor([[5, 0, 6, 0], [0, 0, 0, 0]]), router)
    plain_BNG = rank(model, table_ID, history_BL[:1], torch.tensor([[5, 6]]), router)
    assert padded_BNG.isfinite().all()
    torch.testing.assert_close(padded_BNG[0, [0, 2]], plain_BNG[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_nothing_to_rank(model: Recommender, table_ID: Tensor, router: Router, shape: tuple[int, int]) -> None:
    history_BL = torch.ones(shape[0], 3, dtype=torch.int64)
    logits_BNG = rank(model, table_ID, history_BL, torch.ones(shape, dtype=torch.int64), router)
    assert logits_BNG.shape == (*shape, 2)


def test_before_training_ranking_is_retrieval(model: Recommender, table_ID: Tensor, router: Router) -> None:
    torch.nn.init.zeros_(model.ranker.heads.weight)
    history_BL, candidates_BN = torch.tensor([[3, 9, 27]]), torch.arange(1, 41)[None]
    user_BD = model.encode(history_BL, torch.ones_like(history_BL), table_ID).user_BD
    expected_BN = model.retrieval_scores(user_BD, table_ID)[:, 1:41]
    logits_BNG = rank(model, table_ID, history_BL, candidates_BN, router)
    torch.testing.assert_close(logits_BNG[..., 0], expected_BN, atol=1e-4, rtol=1e-4)


def test_each_goal_has_a_score_of_its_own(model: Recommender, table_ID: Tensor, router: Router) -> None:
    logits_BNG = rank(model, table_ID, torch.tensor([[3, 9, 27]]), torch.arange(1, 41)[None], router)
    assert logits_BNG.shape[-1] == len(model.config.goals)
    assert (logits_BNG[..., 0] - logits_BNG[..., 1]).std() > 1e-3


def test_bounded_and_dropless_experts_agree_where_there_is_room(model: Recommender, table_ID: Tensor) -> None:
    history_BL, candidates_BN = torch.randint(1, 42, (4, 9)), torch.randint(1, 42, (4, 20))
    experts = model.config.experts
    free = Router.unconstrained(model.config.moe_layers, experts)
    roomy = Router("price", capacity_factor=float(experts), layers=model.config.moe_layers, experts=experts)
    torch.testing.assert_close(
        rank(model, table_ID, history_BL, candidates_BN, roomy),
        rank(model, table_ID, history_BL, candidates_BN, free),
        atol=1e-5,
        rtol=0,
    )


def test_the_router_sees_every_block_and_token(model: Recommender, table_ID: Tensor, router: Router) -> None:
    history_BL = torch.randint(1, 42, (3, 9))
    encoded = model.encode(history_BL, torch.ones_like(history_BL), table_ID)
    plans = model.rank(encoded, torch.randint(1, 42, (3, 7)), table_ID, router).plans
    assert len(plans) == model.config.moe_layers
    for plan in plans:
        assert plan.expert_ids_TK.shape == (21, model.config.k)
        assert int(plan.load_E.sum()) == 21 * model.config.k


def test_the_gradient_reaches_experts_and_gates(make_model: Callable[..., Recommender], table_ID: Tensor) -> None:
    model = make_model().train()
    router = Router.unconstrained(model.config.moe_layers, model.config.experts)
    history_BL = torch.randint(1, 42, (8, 9))
    encoded = model.encode(history_BL, torch.ones_like(history_BL), table_ID)
    logits_BNG = model.rank(encoded, torch.randint(1, 42, (8, 30)), table_ID, router).logits_BNG
    logits_BNG.square().mean().backward()
    for block in model.ranker.blocks:
        assert isinstance(block, MoEBlock)
        for name, weight in block.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            assert weight.grad.abs().max() > 0, name
        up_grad = block.experts.up_ED2H.grad
        assert up_grad is not None
        assert (up_grad.abs().amax((1, 2)) > 0).all(), "an expert learns nothing"


def test_second_choices_are_practised_in_training(make_model: Callable[..., Recommender], table_ID: Tensor) -> None:
    """With forced redirects the same batch is routed differently from step to step; without it never is."""
    history_BL, candidates_BN = torch.randint(1, 42, (4, 9)), torch.randint(1, 42, (4, 20))

    def routes(**changes: float) -> list[Tensor]:
        model = make_model(dropout=0.0, id_dropout=0.0, **changes).train()
        router = Router.unconstrained(model.config.moe_layers, model.config.experts)
        encoded = model.encode(history_BL, torch.ones_like(history_BL), table_ID)
        ranked = [model.rank(encoded, candidates_BN, table_ID, router) for _ in range(2)]
        return [one.plans[0].expert_ids_TK for one in ranked]

    assert torch.equal(*routes(gate_noise=0.0, expert_dropout=0.0))
    assert not torch.equal(*routes(gate_noise=0.0, expert_dropout=0.5))
    assert not torch.equal(*routes(gate_noise=2.0, expert_dropout=0.0))


@pytest.mark.parametrize("ages", [0, 5])
def test_a_place_in_a_history_is_a_shorter_history(
    make_model: Callable[..., Recommender], table_ID: Tensor, router: Router, ages: int
) -> None:
    """Training scores many positions of one history: each must say what serving would have said then."""
    model = make_model(ranker_ages=ages)
    if ages:
        torch.nn.init.normal_(model.ranker.attention.age_bias_AM)
    history_BL, places_BP = torch.tensor([[3, 9, 27, 41, 5], [8, 2, 0, 0, 0]]), torch.tensor([[1, 4], [2, 0]])
    candidates_BPC = torch.randint(1, 42, (2, 2, 6))
    with torch.inference_mode():
        encoded = model.encode(history_BL, (history_BL != 0).long(), table_ID)
        found = model.rank(encoded, candidates_BPC.view(2, 12), table_ID, router, places_BP).logits_BNG
    for row in range(2):
        for place in range(2):
            then = history_BL[row : row + 1, : int(places_BP[row, place])]
            expected_NG = rank(model, table_ID, then, candidates_BPC[row, place][None], router)[0]
            torch.testing.assert_close(found.view(2, 2, 6, 2)[row, place], expected_NG, atol=1e-5, rtol=0)


def test_with_ages_an_old_event_counts_differently(
    make_model: Callable[..., Recommender], table_ID: Tensor, router: Router
) -> None:
    model = make_model(ranker_ages=4)
    torch.nn.init.normal_(model.ranker.attention.age_bias_AM)
    before = rank(model, table_ID, torch.tensor([[3, 9, 27]]), torch.arange(1, 41)[None], router)
    torch.nn.init.zeros_(model.ranker.attention.age_bias_AM)
    assert not torch.allclose(
        before, rank(model, table_ID, torch.tensor([[3, 9, 27]]), torch.arange(1, 41)[None], router)
    )


def test_training_in_bfloat16_scores_alike(
    make_model: Callable[..., Recommender], table_ID: Tensor, router: Router
) -> None:
    model = make_model(ranker_ages=4)
    history_BL, candidates_BN = torch.tensor([[3, 9, 27]]), torch.arange(1, 41)[None]
    wide = rank(model, table_ID, history_BL, candidates_BN, router)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = rank(model, table_ID, history_BL, candidates_BN, router)
    assert narrow.dtype == torch.float32
    assert float((narrow - wide).norm() / wide.norm()) < 0.05
