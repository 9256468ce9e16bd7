"""The runner at static shapes answers as it does at the shape of each batch. Here on a CPU, without graphs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.engine import static_steps
from recsys.engine.catalogue import Catalogue
from recsys.engine.runner import BatchResult, Runner
from recsys.engine.telemetry import EngineMetrics, Telemetry
from recsys.model.recommender import Recommender
from recsys.state.items import CatalogueItem
from recsys.wire import Filters, RankRequest
from router.router import Router

CANDIDATES = 60


@pytest.fixture(scope="module")
def runners(tiny_model: Path) -> tuple[Runner, Runner]:
    return tuple(
        Runner(Recommender.from_pretrained(tiny_model), candidates=CANDIDATES, static=static)
        for static in (False, True)
    )  # type: ignore[return-value]


@pytest.fixture(scope="module")
def catalogue(runners: tuple[Runner, Runner]) -> Catalogue:
    model = runners[0].model
    return Catalogue([CatalogueItem(item_id=name, title=name, ts=1) for name in model.vocabulary.items], model)


def run(
    runner: Runner, batch: list[RankRequest], catalogue: Catalogue, policy: str = "topk", **more: object
) -> BatchResult:
    config = runner.model.config
    router = Router(policy, capacity_factor=1.5, layers=config.moe_layers, experts=config.experts)
    return runner.run(batch, catalogue, router, step="calm", **more)  # type: ignore[arg-type]


def drawn(draw: random.Random, catalogue: Catalogue, n: int) -> RankRequest:
    names = [*catalogue.item_ids[1:], "no such item"]
    return RankRequest(
        id=str(n),
        time_left_ms=1,
        k=draw.choice([1, 10, 30, 70]),
        history=tuple(draw.choices(names, k=draw.randrange(70))),
        candidates=tuple(draw.sample(names, draw.randrange(100))) if draw.random() < 0.3 else None,
        filters=Filters(categories_any=("No Such",)) if draw.random() < 0.1 else Filters(),
        goals={"love": 1} if draw.random() < 0.05 else {},
        diversity=draw.choice([0.0, 0.5]),
        explain=draw.random() < 0.3,
    )


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.integers(1, 17), candidates=st.sampled_from([None, 20]), seed=st.integers(0, 10_000))
def test_answers_are_those_of_the_plain_step(
    runners: tuple[Runner, Runner], catalogue: Catalogue, requests: int, candidates: int | None, seed: int
) -> None:
    draw = random.Random(seed)
    batch = [drawn(draw, catalogue, n) for n in range(requests)]
    plain, static = (run(runner, batch, catalogue, candidates=candidates) for runner in runners)
    assert static.tokens == plain.tokens
    assert (plain.form, static.form) == (("plain", "launches") if plain.tokens else (plain.form, plain.form))
    for ours, theirs in zip(static.replies, plain.replies, strict=True):
        assert ours.item_ids == theirs.item_ids
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
        assert ours.error == theirs.error
        for name, values in theirs.goals.items():
            assert ours.goals[name] == pytest.approx(values, abs=1e-5)
        for name in ("status", "cold_start", "candidates", "redirected", "score_kept"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert [(use.item_id, use.layer, use.experts) for use in ours.experts] == [
            (use.item_id, use.layer, use.experts) for use in theirs.experts
        ]
    for ours, theirs in zip(static.plans, plain.plans, strict=True):
        for name in ("expert_ids_TK", "rank_TK", "demand_E", "load_E", "capacity_E", "redirected_TK"):
            assert getattr(ours, name).equal(getattr(theirs, name)), name


def test_a_policy_that_needs_the_host_runs_as_before(runners: tuple[Runner, Runner], catalogue: Catalogue) -> None:
    batch = [RankRequest(id="a", time_left_ms=1, k=5, history=("i3",))]
    assert run(runners[1], batch, catalogue, "drop").form == "plain"
    assert run(runners[1], batch, catalogue, "price").form == "plain"  # on a CPU


def test_items_that_come_and_grow_past_the_table_are_found(
    runners: tuple[Runner, Runner], catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_steps, "ITEMS_STEP", 8)
    plain, static = runners[0], Runner(runners[0].model, candidates=CANDIDATES, static=True)
    wanted, grown = [RankRequest(id="a", time_left_ms=1, k=200, history=("i0", "i1"))], catalogue
    for n in range(20):
        new = CatalogueItem(item_id=f"new{n}", title="New", ts=2, categories=catalogue.items[0].categories)
        grown = grown.changed({new.item_id: new}, {f"i{n}"}, plain.model)
        ours, theirs = (run(runner, wanted, grown).replies[0] for runner in (static, plain))
        assert set(ours.item_ids) == set(theirs.item_ids)  # new items are all alike, so their order is free
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
        assert new.item_id in ours.item_ids
        assert f"i{n}" not in ours.item_ids
    again = run(static, wanted, catalogue).replies[0]  # a smaller table in the place of a larger one
    assert again.item_ids == run(plain, wanted, catalogue).replies[0].item_ids


def test_answers_outlive_the_memory_of_their_step(runners: tuple[Runner, Runner], catalogue: Catalogue) -> None:
    first = [RankRequest(id="a", time_left_ms=1, k=9, history=("i3",))]
    second = [RankRequest(id="b", time_left_ms=1, k=9, history=("i7", "i8"))]
    kept = run(runners[1], first, catalogue)
    before = [(plan.expert_ids_TK.clone(), plan.gates_TK.clone()) for plan in kept.plans]
    run(runners[1], second, catalogue)
    for plan, (ids_TK, gates_TK) in zip(kept.plans, before, strict=True):
        assert plan.expert_ids_TK.equal(ids_TK)
        assert plan.gates_TK.equal(gates_TK)


def test_the_metrics_tell_how_micro_batches_ran(runners: tuple[Runner, Runner], catalogue: Catalogue) -> None:
    metrics = EngineMetrics()
    config = runners[0].model.config
    telemetry = Telemetry(engine="e", layers=config.moe_layers, experts=config.experts, queue_max=1, metrics=metrics)
    wanted = [RankRequest(id="a", time_left_ms=1, k=5, history=("i3",))]
    for runner in runners:
        result = run(runner, wanted, catalogue)
        telemetry.batch(len(result.replies), 0.001, result.tokens, result.plans, result.form)
    count = metrics.registry.get_sample_value
    assert [count("recsys_engine_batches_total", {"form": form}) for form in ("plain", "launches", "graph")] == [
        1,
        1,
        None,
    ]


def test_warming_up_covers_every_width_that_has_a_shape(runners: tuple[Runner, Runner], catalogue: Catalogue) -> None:
    longest = runners[0].model.config.history
    plain, static = (runner.widths for runner in runners)
    assert plain == [longest]
    histories = [tuple(catalogue.item_ids[1 : n + 1]) for n in range(1, longest + 1)]
    batches = [[RankRequest(id="a", time_left_ms=1, k=5, history=history)] for history in histories]
    steps = runners[1]._steps
    assert steps is not None
    for width in static:
        run(runners[1], batches[width - 1], catalogue)
    shapes = steps.kept
    for batch in batches:
        run(runners[1], batch, catalogue)
    assert steps.kept == shapes
