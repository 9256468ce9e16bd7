"""Specs: constant, titled, with units, and over fields that the frames have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from dashboard import charts, frames
from dashboard.answers import LoadSnapshot
from recsys.wire import encode_snapshot

Made = Callable[[frames.Picture], tuple[charts.Spec, Any]]
CHARTS: dict[str, Made] = {
    "demand": lambda p: (charts.demand_heat(), p.over_time),
    "served": lambda p: (charts.served_heat(), p.over_time),
    "bars": lambda p: (charts.load_bars(), p.now),
    "flows": lambda p: (charts.flow_ribbons(), p.ribbons),
    "latency": lambda p: (charts.latency(), frames.latency_lines(p.queries)),
    "outcomes": lambda p: (charts.outcomes(), frames.outcome_areas(p.queries)),
    "balance": lambda p: (charts.balance(), frames.balance_lines(frames.balance_over_time(p.over_time))),
    "quality": lambda p: (charts.quality(), p.queries),
    "gap": lambda p: (charts.certified_gap(), p.queries),
    "pressure": lambda p: (charts.pressure(), p.queries),
    "prices": lambda p: (charts.price_heat(), p.over_time),
}


def fields(spec: Any) -> Iterator[str]:
    if isinstance(spec, dict):
        if isinstance(spec.get("field"), str):
            yield spec["field"]
        for value in spec.values():
            yield from fields(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from fields(value)


@pytest.fixture(scope="module")
def burst(made_up_service: Any) -> frames.Picture:
    service = made_up_service()
    service.flash_crowd(5, 11, ago_s=60)
    decode = msgspec.json.Decoder(LoadSnapshot).decode
    return frames.picture([decode(encode_snapshot(s)) for s in service.snapshots(120)], 0)


@pytest.mark.parametrize("name", CHARTS)
def test_chart(name: str, burst: frames.Picture) -> None:
    spec, frame = CHARTS[name](burst)
    assert set(fields(spec)) <= set(frame.columns)
    assert spec["title"]["text"].endswith("?"), "every chart asks its question"
    assert spec["title"]["subtitle"], "and says its unit"
    assert frame.height <= 1_000, "few enough marks to redraw every second"
    json.dumps(spec)
    assert CHARTS[name](burst)[0] == spec, "the same spec every second, or the chart is built anew"


def test_a_tooltip_tells_its_own_time_axis() -> None:
    assert "seconds from now" in str(charts.latency())
    for chart in (charts.latency, charts.outcomes, charts.balance, charts.demand_heat, charts.served_heat):
        told = str(chart(charts.run_seconds(50)))
        assert "seconds since the start" in told
        assert "seconds from now" not in told


def test_what_the_api_refused_is_shown_only_where_it_is_known() -> None:
    alone, both = charts.outcomes(), charts.outcomes(with_api=True)
    assert "in a crowd the API refuses more" in alone["title"]["subtitle"]
    assert "refusals included" in both["title"]["subtitle"]
    of_api = [json.dumps(spec["encoding"]["color"]["scale"]).count("shed_api") for spec in (alone, both)]
    assert of_api == [0, 1]


def test_a_burst_shows(burst: frames.Picture) -> None:
    assert burst.now["demand_x"].max() > 3  # type: ignore[operator]
    assert burst.now["served_x"].max() < 1.3  # type: ignore[operator]
