"""Charts in words."""

from __future__ import annotations

from typing import Any

import msgspec
import polars as pl
import pytest

from dashboard import alt, flows, frames
from dashboard.answers import LoadSnapshot
from recsys.wire import encode_snapshot


@pytest.fixture(scope="module")
def burst(made_up_service: Any) -> frames.Picture:
    service = made_up_service()
    service.flash_crowd(5, 11, ago_s=60)
    decode = msgspec.json.Decoder(LoadSnapshot).decode
    return frames.picture([decode(encode_snapshot(s)) for s in service.snapshots(120)], 0)


def test_a_burst_in_words(burst: frames.Picture) -> None:
    assert alt.heat(burst.over_time, "demand", "demand").startswith("Demand relative to the mean, now: expert 5 ")
    assert "Most wanted: expert 5" in alt.bars(burst.now)
    assert alt.flows(burst.ribbons).startswith("Work moved, in slots per second, largest first: E5 to E")
    told = alt.series(burst.queries, "milliseconds", p50="p50", p99="p99")
    assert "p50 " in told
    assert "Unit: milliseconds." in told
    assert "Step now " in alt.steps(burst.queries)
    assert " percent" in alt.steps(burst.queries)


def test_nothing_in_words(burst: frames.Picture) -> None:
    empty = pl.DataFrame
    assert alt.heat(burst.over_time.clear(), "demand", "demand") == "No demand in the last two minutes."
    assert alt.bars(burst.now.clear()) == "No load now."
    assert alt.flows(flows.flow_ribbons(flows.flows_now([], 0))) == "No work is moved."
    assert alt.series(empty(), "ms", p50="p50") == alt.steps(empty()) == "Nothing to show yet."
