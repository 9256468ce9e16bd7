"""One micro-batch: what an answer may depend on, and what it may not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from recsys.data.dataset import Dataset
from recsys.engine.catalogue import Catalogue
from recsys.engine.runner import Runner
from recsys.model.recommender import Recommender
from recsys.state.items import CatalogueItem
from recsys.wire import Filters, RankReply, RankRequest, Similar
from router.router import Router


def stored(dataset: Dataset) -> list[CatalogueItem]:
    return [
        CatalogueItem(item_id=i, title=t, ts=1, categories=tuple(c or ()), attributes={} if y is None else {"year": y})
        for i, t, c, y in dataset.items.select("item_id", "title", "categories", "year").iter_rows()
    ]


@pytest.fixture(scope="module")
def runner(tiny_model: Path) -> Runner:
    return Runner(Recommender.from_pretrained(tiny_model), candidates=60)


@pytest.fixture(scope="module")
def catalogue(runner: Runner, tiny_world: Path) -> Catalogue:
    return Catalogue(stored(Dataset.load(tiny_world)), runner.model)


def router(runner: Runner, policy: str, factor: float = 1.0) -> Router:
    config = runner.model.config
    return Router(policy, capacity_factor=factor, layers=config.moe_layers, experts=config.experts)


def stranger(random_: random.Random, n: int) -> RankRequest:
    history = tuple(f"i{random_.randrange(150)}" for _ in range(random_.randrange(40)))
    return RankRequest(
        id=f"s{n}", time_left_ms=1, k=random_.randrange(1, 30), history=history, diversity=random_.choice([0.0, 0.5])
    )


def scores(reply: RankReply) -> list[float]:
    return reply.scores


@pytest.mark.parametrize("seed", range(5))
def test_under_topk_an_answer_does_not_depend_on_strangers(runner: Runner, catalogue: Catalogue, seed: int) -> None:
    random_ = random.Random(seed)
    mine = RankRequest(id="me", time_left_ms=1, k=20, history=("i3", "i9", "i27"), goals={"click": 1, "like": 2})
    alone = runner.run([mine], catalogue, router(runner, "topk"), step="calm").replies[0]
    crowd = [stranger(random_, n) for n in range(15)]
    place = random_.randrange(16)
    batch = [*crowd[:place], mine, *crowd[place:]]
    together = runner.run(batch, catalogue, router(runner, "topk"), step="calm").replies[place]
    assert together.item_ids == alone.item_ids
    assert scores(together) == pytest.approx(scores(alone), abs=1e-5)
    assert together.redirected == 0


@pytest.mark.parametrize("policy", ["topk", "price", "drop"])
def test_the_same_conditions_give_the_same_bytes(runner: Runner, catalogue: Catalogue, policy: str) -> None:
    random_ = random.Random(1)
    batch = [stranger(random_, n) for n in range(8)]
    first, second = (runner.run(batch, catalogue, router(runner, policy), step="calm").replies for _ in range(2))
    assert [(r.item_ids, r.scores, r.score_kept) for r in first] == [
        (r.item_ids, r.scores, r.score_kept) for r in second
    ]


def test_with_room_for_all_price_gives_the_answer_of_topk(runner: Runner, catalogue: Catalogue) -> None:
    batch = [stranger(random.Random(2), n) for n in range(8)]
    plain, priced = (
        runner.run(batch, catalogue, router(runner, policy, 8.0), step="calm").replies for policy in ("topk", "price")
    )
    assert [r.item_ids for r in plain] == [r.item_ids for r in priced]


def test_price_balances_a_crowd_and_says_what_it_cost(runner: Runner, catalogue: Catalogue) -> None:
    crowd = [RankRequest(id=str(n), time_left_ms=1, k=10, history=("i3", "i3", "i9")) for n in range(16)]
    result = runner.run(crowd, catalogue, router(runner, "price", 1.0), step="redirect")
    for plan in result.plans:
        assert bool((plan.load_E <= plan.capacity_E).all())
        assert int((plan.expert_ids_TK < 0).sum()) == 0
    assert 0 < result.replies[0].score_kept <= 1
    assert result.replies[0].redirected > 0


def test_a_wrong_request_does_not_touch_its_neighbours(runner: Runner, catalogue: Catalogue) -> None:
    good = RankRequest(id="good", time_left_ms=1, k=5)
    bad = RankRequest(id="bad", time_left_ms=1, k=5, goals={"love": 1})
    replies = runner.run([bad, good, bad], catalogue, router(runner, "topk"), step="calm").replies
    assert [reply.status for reply in replies] == ["invalid", "ok", "invalid"]
    assert len(replies[1].item_ids) == 5


def test_no_catalogue_and_nothing_eligible_give_empty_answers(runner: Runner, catalogue: Catalogue) -> None:
    empty = Catalogue([], runner.model)
    request = RankRequest(id="a", time_left_ms=1, k=5)
    assert runner.run([request], empty, router(runner, "price"), step="calm").replies[0].item_ids == []
    nothing = RankRequest(id="b", time_left_ms=1, k=5, filters=Filters(categories_any=("No Such",)))
    replies = runner.run([nothing, request], catalogue, router(runner, "price"), step="calm").replies
    assert [len(reply.item_ids) for reply in replies] == [0, 5]
    assert runner.run([nothing], catalogue, router(runner, "price"), step="calm").replies[0].item_ids == []


def test_a_new_item_is_recommendable_and_a_deleted_one_is_not(runner: Runner, catalogue: Catalogue) -> None:
    new = CatalogueItem(item_id="brand-new", title="New", ts=2, categories=catalogue.items[0].categories)
    changed = catalogue.changed({"brand-new": new}, {"i0"}, runner.model)
    everything = RankRequest(id="a", time_left_ms=1, k=200, history=("i0", "i1"), exclude_seen=False)
    answer = runner.run([everything], changed, router(runner, "topk"), step="calm").replies[0]
    found = set(answer.item_ids)
    assert "brand-new" in found
    assert "i0" not in found
    assert len(found) == 150
    assert not answer.cold_start  # the deleted item still counts as history
    back = changed.changed({"i0": catalogue.items[0]}, set(), runner.model)
    assert back.live_I[back.row("i0")]


def test_similar_items_leave_out_the_item_itself(runner: Runner, catalogue: Catalogue) -> None:
    reply = runner.similar(Similar("q", 1, "i5", 7), catalogue)
    assert len(reply.item_ids) == 7
    assert "i5" not in reply.item_ids
    assert scores(reply) == sorted(scores(reply), reverse=True)
    assert runner.similar(Similar("q", 1, "nope", 7), catalogue).status == "invalid"


def test_unknown_history_is_a_cold_start(runner: Runner, catalogue: Catalogue) -> None:
    known, unknown = (
        runner.run(
            [RankRequest(id="a", time_left_ms=1, k=3, history=h)], catalogue, router(runner, "topk"), step="calm"
        ).replies[0]
        for h in ((), ("gone-1", "gone-2"))
    )
    assert unknown.cold_start
    assert (unknown.item_ids, unknown.scores) == (known.item_ids, known.scores)


def test_no_gradient_is_kept(runner: Runner, catalogue: Catalogue) -> None:
    assert torch.is_grad_enabled()
    assert not catalogue.table_ID.requires_grad


def test_padding_takes_no_expert_s_slots(runner: Runner, catalogue: Catalogue) -> None:
    short = RankRequest(id="a", time_left_ms=1, k=5, candidates=("i1", "i2"), explain=True)
    long = RankRequest(id="b", time_left_ms=1, k=5, explain=True)
    result = runner.run([short, long], catalogue, router(runner, "price"), step="redirect")
    assert result.tokens == 62
    for plan in result.plans:
        assert int(plan.demand_E.sum()) == 62 * runner.model.config.k
    assert {use.item_id for use in result.replies[0].experts} == {"i1", "i2"}
    alone = runner.run([short], catalogue, router(runner, "topk"), step="calm").replies[0]
    together = runner.run([long, short], catalogue, router(runner, "topk"), step="calm").replies[1]
    assert [use.experts for use in alone.experts] == [use.experts for use in together.experts]


def test_fewer_slots_than_wishes_go_to_the_pairs_that_gain_most(runner: Runner, catalogue: Catalogue) -> None:
    crowd = [stranger(random.Random(4), n) for n in range(16)]
    priced, dropped = (
        runner.run(crowd, catalogue, router(runner, policy, 0.6), step="economise") for policy in ("price", "drop")
    )
    for plan in priced.plans:
        assert bool((plan.load_E == plan.capacity_E).all())  # every slot there is, is used
    assert all(reply.status == "ok" and reply.step == "economise" for reply in priced.replies)
    assert priced.replies[0].score_kept > dropped.replies[0].score_kept


def test_fewer_candidates_are_the_nearest_ones_and_named_ones_are_all_ranked(
    runner: Runner, catalogue: Catalogue
) -> None:
    found = RankRequest(id="a", time_left_ms=1, k=5, history=("i3",))
    many = RankRequest(id="b", time_left_ms=1, k=40, history=("i3",))
    named = RankRequest(id="c", time_left_ms=1, k=5, history=("i3",), candidates=tuple(f"i{n}" for n in range(5, 50)))

    def ranked(request: RankRequest) -> int:
        return (
            runner.run([request], catalogue, router(runner, "topk"), step="economise", candidates=20)
            .replies[0]
            .candidates
        )

    assert [ranked(request) for request in (found, many, named)] == [20, 40, 45]


def test_each_request_is_told_its_own_share_of_redirected_slots(runner: Runner, catalogue: Catalogue) -> None:
    crowd = [
        RankRequest(id=str(n), time_left_ms=1, k=60, history=("i3", "i9"), candidates=names, explain=True)
        for n, names in enumerate([None, ("i1",), tuple(f"i{m}" for m in range(10, 45)), ("no such",), None])
    ]
    replies = runner.run(crowd, catalogue, router(runner, "price", 0.7), step="redirect").replies
    slots = runner.model.config.k * runner.model.config.moe_layers
    for reply in replies:
        moved = sum(len(use.redirected_to) for use in reply.experts)
        assert reply.redirected == pytest.approx(moved / max(1, slots * reply.candidates))
    assert len({reply.redirected for reply in replies}) > 2
    assert [len(reply.item_ids) for reply in replies] == [reply.candidates for reply in replies] == [60, 1, 35, 0, 60]
