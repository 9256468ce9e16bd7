"""An engine's step at static shapes: balanced without a slot for padding, and on a GPU one graph with the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from torch import Tensor

from recsys.engine.static_steps import StaticSteps
from recsys.model.config import ModelConfig
from recsys.model.recommender import Recommender
from recsys.model.static_step import Shape, real_plans
from recsys.model.vocabulary import Vocabulary

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
SHAPE = Shape(requests=4, history=12, candidates=20, items=1024)
Fill = Callable[[Mapping[str, Tensor]], None]


@pytest.fixture(scope="module", autouse=True)
def as_served(device: str) -> Iterator[None]:
    """On a GPU with the kernels of torch that serve: those that are deterministic by decree may wait for the host."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before and device == "cpu", warn_only=True)
    yield
    torch.use_deterministic_algorithms(before, warn_only=True)


@pytest.fixture(scope="module")
def model(device: str) -> Recommender:
    torch.manual_seed(3)
    vocabulary = Vocabulary(items=tuple(f"i{n}" for n in range(60)), categories=("War",), year_starts=(1990,))
    shape = {"width": 16, "history": 12, "experts": 4, "expert_hidden": 16}
    model = Recommender(ModelConfig.from_json(shape | vocabulary.sizes()), vocabulary)
    for weight in (model.item_ids.weight, model.ranker.heads.weight):
        torch.nn.init.normal_(weight)
    return model.to(device).eval()


@pytest.fixture(scope="module")
def table_ID(model: Recommender) -> Tensor:
    return model.item_ids.weight.detach().clone()


def asked(seed: int, factor: float = 1.0, requests: int = 3) -> Fill:
    """Requests of their own lengths, in the first rows of a batch."""
    draws = torch.Generator().manual_seed(seed)
    history_BL = torch.randint(1, 61, (requests, 12), generator=draws)
    history_BL[:, 9:] = 0
    width_B = torch.randint(5, 21, (requests,), generator=draws)
    slots = -(-int(factor * 2 * int(width_B.sum())) // 4)

    def fill(values: Mapping[str, Tensor]) -> None:
        values["history_BL"][:requests], values["width_B"][:requests] = history_BL, width_B
        values["allowed_BI"][:requests, 1:61] = True
        values["capacity_E"].fill_(slots)

    return fill


def steps_of(model: Recommender, graphs_max: int = 8, complaints: list[str] | None = None) -> StaticSteps:
    return StaticSteps(model, graphs_max=graphs_max, complain=(complaints if complaints is not None else []).append)


def run(steps: StaticSteps, policy: str, table_ID: Tensor, fill: Fill, shape: Shape = SHAPE) -> dict[str, Tensor]:
    with torch.inference_mode():
        return steps.run(policy, shape, table_ID, fill)[0]


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.5])
def test_price_promises_hold_for_the_real_tokens(model: Recommender, table_ID: Tensor, factor: float) -> None:
    found = run(steps_of(model), "price", table_ID, asked(1, factor))
    real_T = found["candidates_BN"].reshape(-1) > 0
    tokens = int(real_T.sum())
    capacity_E = torch.full((4,), -(-int(factor * 2 * tokens) // 4))
    assert 0 < tokens < len(real_T)
    for plan in real_plans(found, capacity_E, real_T, 2):
        assert bool((plan.load_E <= capacity_E).all())
        assert int(plan.load_E.sum()) == min(2 * tokens, int(capacity_E.sum()))
        assert torch.equal((plan.expert_ids_TK >= 0).sum(), plan.load_E.sum())
        assert int(plan.demand_E.sum()) == 2 * tokens
        assert 0 < float(plan.score_kept) <= 1
        assert 0 <= float(plan.certified_gap) < 1
    for layer in range(2):
        assert bool((found[f"expert_ids_TK/{layer}"][~real_T] == -1).all())


def test_padding_does_not_move_prices(model: Recommender, table_ID: Tensor, device: str) -> None:
    tight, wide = SHAPE._replace(requests=3), SHAPE._replace(requests=8, candidates=32)
    steps = steps_of(model), steps_of(model)
    for seed in range(3):  # the prices of one batch are where the next one starts
        small, large = (
            run(s, "price", table_ID, asked(seed), shape) for s, shape in zip(steps, (tight, wide), strict=True)
        )
        assert torch.equal(small["candidates_BN"], large["candidates_BN"][:3, :20])
        assert torch.equal(small["demand_E/0"], large["demand_E/0"])
        assert torch.equal(small["load_E/1"].sum(), large["load_E/1"].sum())
        if device == "cpu":  # on a GPU a product of another shape rounds in another way, and prices come in steps
            for name in ("load_E/0", "load_E/1", "prices_E/0", "prices_E/1"):
                torch.testing.assert_close(small[name], large[name])
            real_BN = small["candidates_BN"] > 0
            torch.testing.assert_close(small["logits_BNG"][real_BN], large["logits_BNG"][:3, :20][real_BN])


def test_the_longest_unused_shape_goes(model: Recommender, table_ID: Tensor) -> None:
    steps = steps_of(model, graphs_max=2)
    for requests in (1, 2, 1, 4, 1):
        run(steps, "topk", table_ID, asked(0, requests=1), SHAPE._replace(requests=requests))
    assert steps.evicted == 1
    run(steps, "topk", table_ID, asked(0, requests=1), SHAPE._replace(requests=2))
    assert steps.evicted == 2


@needs_gpu
@pytest.mark.parametrize("policy", ["topk", "price"])
def test_a_replayed_graph_gives_the_bits_of_launches(model: Recommender, table_ID: Tensor, policy: str) -> None:
    captured, launched = steps_of(model), steps_of(model, graphs_max=0)
    for seed in range(5):  # the first of them captures; prices go from step to step in both
        with torch.inference_mode():
            found, form = captured.run(policy, SHAPE, table_ID, asked(seed))
        assert form == ("graph" if seed else "launches")
        expected = run(launched, policy, table_ID, asked(seed))
        for name, value in expected.items():
            assert torch.equal(found[name].view(torch.uint8), value.view(torch.uint8)), name  # NaN is no difference
    assert (captured.captured, captured.failed, launched.captured) == (1, 0, 0)


@needs_gpu
def test_many_graphs_in_one_pool_do_not_disturb_each_other(model: Recommender, table_ID: Tensor) -> None:
    captured, launched = steps_of(model, graphs_max=3), steps_of(model, graphs_max=0)
    for turn, requests in enumerate((1, 2, 4, 2, 1, 8, 4, 1, 8, 2)):
        shape = SHAPE._replace(requests=requests)
        ours, theirs = (run(s, "topk", table_ID, asked(turn, requests=1), shape) for s in (captured, launched))
        assert torch.equal(ours["logits_BNG"], theirs["logits_BNG"])
    assert captured.evicted > 0


@needs_gpu
def test_a_graph_reads_the_items_of_now(model: Recommender, table_ID: Tensor) -> None:
    steps, plain = steps_of(model), steps_of(model, graphs_max=0)
    run(steps, "topk", table_ID, asked(0))
    for table in (table_ID.flip(1).contiguous(), table_ID):
        found, expected = (run(s, "topk", table, asked(0)) for s in (steps, plain))
        assert torch.equal(found["logits_BNG"], expected["logits_BNG"])


@needs_gpu
def test_what_cannot_be_captured_runs_launch_by_launch(
    model: Recommender, table_ID: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recsys.engine import static_steps

    plain = static_steps.step

    def reads_back(*arguments: object) -> dict[str, Tensor]:
        found = plain(*arguments)  # type: ignore[arg-type]
        float(found["logits_BNG"].sum())
        return found

    monkeypatch.setattr(static_steps, "step", reads_back)
    complaints: list[str] = []
    steps = steps_of(model, complaints=complaints)
    first, second = (run(steps, "topk", table_ID, asked(0)) for _ in range(2))
    assert (steps.captured, steps.failed, len(complaints)) == (1, 1, 1)
    assert torch.equal(first["logits_BNG"], second["logits_BNG"])
    monkeypatch.undo()
    assert torch.equal(run(steps_of(model), "topk", table_ID, asked(0))["logits_BNG"], first["logits_BNG"])
