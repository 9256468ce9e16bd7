"""The measurement of online learning on a small world."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from recsys.bench.online import OnlineOptions, measure
from recsys.config import OnlineSettings


def test_new_items_are_learned_and_every_event_is_counted_once(tiny_world: Path) -> None:
    options = OnlineOptions(world=tiny_world, new_items=30, publish_every=50, trained_share=0.6)
    outcome = measure(options, OnlineSettings(learning_rate=0.1), Console(quiet=True))
    rows = {row["events"]: row for row in outcome.rows()}
    everything, trained, new = rows["all"], rows["of items that were trained"], rows["of new items"]
    assert everything["count"] == float(trained["count"]) + float(new["count"])
    assert sum(float(row["count"]) for name, row in rows.items() if "new items, " in str(name)) == new["count"]
    assert float(new["online_ndcg_10"]) > float(new["trained_ndcg_10"])
    assert outcome.published + outcome.rolled_back >= 2
