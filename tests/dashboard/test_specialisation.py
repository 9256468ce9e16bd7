"""From explained answers to what experts are for."""

from __future__ import annotations

import pytest

from dashboard import charts, specialisation
from dashboard.answers import Degraded, Explanation, Item, Recommendations, Timing


def answer(*items: tuple[str, list[str], list[int], list[float]]) -> Recommendations:
    return Recommendations(
        request_id="r", model_version="m", policy="p", degraded=Degraded(), cold_start=False,
        timing=Timing(total_ms=1.0), items=[Item(item_id=i, score=0.5, categories=c) for i, c, _, _ in items],
        explain=[Explanation(item_id=i, layer=0, experts=e, gates=g, redirected_to=[3]) for i, _, e, g in items],
    )  # fmt: skip


def test_a_category_goes_to_its_experts() -> None:
    used = specialisation.uses(
        [answer(("a", ["drama"], [0, 1], [0.75, 0.25]), ("b", ["comedy", "drama"], [1, 3], [0.5, 0.5]))]
    )
    heat = specialisation.by_category(used, 0)
    assert heat.height == 2 * 4, "experts that never spoke are there, with nothing"
    drama = dict(heat.filter(category="drama").select("expert", "times").iter_rows())
    assert drama == pytest.approx({0: 2.0, 1: 4 / 3, 2: 0.0, 3: 2 / 3})
    assert heat.group_by("category").agg(total=heat["share"].sum()).height == 2
    table = specialisation.by_expert(used, 0)
    assert table["categories"].to_list() == ["drama 1.3×", "comedy 1.3×", "a bit of everything", "comedy 2.0×"]
    assert table["redirected"].to_list() == [0.0, 0.0, 0.0, 100.0]
    assert "E3: comedy 2.0×" in charts.describe_specialisation(table)


def test_nothing_explained() -> None:
    used = specialisation.uses([])
    assert specialisation.by_category(used, 0).is_empty()
    assert specialisation.by_expert(used, 0).is_empty()
