"""Items come and go for ever; the rows stay few, and the answers those of a catalogue that was just loaded."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from recsys.engine.catalogue import DEAD_MIN, DEAD_SHARE, Catalogue
from recsys.engine.runner import Runner
from recsys.model.recommender import Recommender
from recsys.state.items import CatalogueItem
from recsys.wire import RankRequest
from router.router import Router


@pytest.fixture(scope="module")
def runner(tiny_model: Path) -> Runner:
    return Runner(Recommender.from_pretrained(tiny_model), candidates=60)


def churned(runner: Runner, random_: random.Random) -> tuple[Catalogue, dict[str, CatalogueItem], list[str]]:
    """A catalogue after many changes, the items that are live, and all deleted ids, the last ones last."""
    names = [f"i{n}" for n in range(150)] + [f"new-{n}" for n in range(2_000)]
    categories = sorted(runner.model.vocabulary.categories)
    live: dict[str, CatalogueItem] = {}
    went: dict[str, None] = {}
    catalogue = Catalogue([], runner.model)
    for _ in range(40):
        put = {
            name: CatalogueItem(item_id=name, title=name, ts=1, categories=tuple(random_.sample(categories, 2)))
            for name in random_.sample(names, 60)
        }
        leaving = random_.sample(sorted(set(live) - set(put)), min(60, len(set(live) - set(put))))
        catalogue = catalogue.changed(put, [*leaving, "nobody knows it"], runner.model)
        live = {name: item for name, item in live.items() if name not in leaving} | put
        went = {name: None for name in [*went, *leaving] if name not in put}
        assert len(catalogue) - len(live) <= max(DEAD_MIN, DEAD_SHARE * len(live))
        assert int(catalogue.live_I.sum()) == len(live)
    return catalogue, live, list(went)


@pytest.mark.parametrize("seed", range(3))
def test_churn_leaves_few_rows_and_the_answers_of_a_fresh_catalogue(runner: Runner, seed: int) -> None:
    random_ = random.Random(seed)
    catalogue, live, went = churned(runner, random_)
    assert len(went) > len(catalogue.dead) == DEAD_MIN, "the test must have something to forget"
    fresh, config = Catalogue(list(live.values()), runner.model), runner.model.config
    requests = [
        RankRequest(id="", time_left_ms=1, k=1_000, history=tuple(random_.sample(sorted(live), 10))) for _ in range(4)
    ]
    answers = []
    for served in (catalogue, fresh):
        router = Router("topk", capacity_factor=1.5, layers=config.moe_layers, experts=config.experts)
        replies = runner.run(requests, served, router, step="calm").replies
        answers.append([dict(zip(reply.item_ids, reply.scores, strict=True)) for reply in replies])
    for found, wanted in zip(*answers, strict=True):
        assert len(wanted) == len(live) - 10
        assert found == pytest.approx(wanted, abs=1e-5)


def test_who_left_last_still_counts_as_history(runner: Runner) -> None:
    catalogue, _, went = churned(runner, random.Random(9))
    assert all(catalogue.rows(went[-DEAD_MIN // 2 :]))
    assert not any(catalogue.rows(went[: -DEAD_MIN * 2]))
    put_again = CatalogueItem(item_id=went[-1], title="back", ts=2)
    back = catalogue.changed({went[-1]: put_again}, (), runner.model)
    assert back.live_I[back.row(went[-1])]
