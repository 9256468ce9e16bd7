"""What readiness costs in calm: the row, and real services as they come, without a setting of a test's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
import torch
from rich.console import Console

from recsys.bench.burst import PADDED, Questions, Service, switch
from recsys.bench.calm import _Answer, _Degraded, _Item, _Timed, calm_row, measure_calm
from recsys.bench.commands import burst_services
from recsys.bench.padded_engine import PaddedRouter


def timed(milliseconds: float, *items: str, step: str = "calm") -> _Timed:
    return _Timed(_Answer([_Item(item) for item in items], _Degraded(step)), milliseconds / 1e3)


def test_a_row_compares_lists_in_order_and_medians() -> None:
    ours = [timed(2, "a", "b"), timed(4, "b", "a"), timed(3, "c"), timed(9, "d", step="redirect")]
    theirs = [timed(2, "a", "b"), timed(2, "a", "b"), timed(2, "c"), timed(3, "d")]
    row = calm_row("price", ours, theirs)
    assert (row["same_answers"], row["calm_share"], row["questions"]) == (0.75, 0.75, 4)
    assert row["p50_ratio"] == pytest.approx(3.5 / 2)
    assert row["p50_of_ratios"] == pytest.approx(1.75)


def test_padded_experts_all_have_the_rows_of_the_fullest_one() -> None:
    router = PaddedRouter("topk", capacity_factor=1.0, layers=1, experts=4)
    scores_TE = torch.tensor([[0.7, 0.2, 0.1, 0.0]] * 5 + [[0.0, 0.1, 0.2, 0.7]] * 2)
    plan = router.route(0, scores_TE, 1, torch.zeros(4))
    assert (router.static_capacity(7, 1), plan.load_E.tolist()) == (5, [5, 0, 0, 2])


@pytest.mark.e2e
def test_services_with_default_settings_answer_alike_in_calm_and_only_200_or_503_in_a_crowd(
    tiny_world: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    bodies = [question.body for question in Questions.of(tiny_world, 0).calm]

    async def crowd(service: Service) -> list[httpx.Response]:
        """All questions at once, twice; then until it is calm again."""
        async with httpx.AsyncClient(base_url=service.base, timeout=30) as http:
            headers = {"content-type": "application/json"}
            asked = (http.post("/v1/recommendations", content=body, headers=headers) for body in bodies * 2)
            found = list(await asyncio.gather(*asked))
        await switch(service, "price")
        return found

    async def run(services: dict[str, Service]) -> None:
        row = await measure_calm(services["on"], "price", services[PADDED], bodies[:40])
        assert row["same_answers"] >= 0.95  # padded experts add in another order: near ties may fall otherwise
        found = await crowd(services["on"])
        assert {answer.status_code for answer in found} <= {200, 503}
        assert sum(answer.status_code == 200 for answer in found) > 0
        assert all("retry-after" in answer.headers for answer in found if answer.status_code == 503)
        after = await measure_calm(services["on"], "price", services[PADDED], bodies[:10])
        assert after["same_answers"] >= 0.9

    with burst_services(tiny_world, tiny_model, ("on", PADDED), Console(quiet=True)) as services:
        asyncio.run(run(services))
