"""Load runs from the board: plans, real runs of the load test against the made-up service, and their report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import configargparse
import msgspec
import pytest

from dashboard import report
from dashboard.answers import LoadSnapshot
from dashboard.burst import SHAPES, BurstError, Lab, Plan, Run, missing
from dashboard.client import Client, RefusedError
from dashboard.views.burst_lab import NAMES
from loadtest.options import SHAPE_NAMES, Options, add_arguments
from loadtest.shapes import ENDLESS, phases_of

QUICK = Plan(shape="flash_crowd", rate=10, crowd_factor=4, around_s=1.0, crowd_s=1.5)


@pytest.fixture
def lab(served: Any) -> Iterator[Lab]:
    client = Client(served.url)
    lab = Lab(lambda: tuple(client.experts(window_s=60).snapshots))
    yield lab
    lab.stop()


@pytest.fixture
def tastes(tiny_world: Path) -> str:
    return str(tiny_world / "tastes.json")


def finished(lab: Lab) -> Any:
    deadline = time.monotonic() + 40
    while (run := lab.run()) is not None and run.going_on:
        assert time.monotonic() < deadline, "the run did not end"
        time.sleep(0.05)
    assert run is not None
    return run


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"shape": "tsunami"}, "shape: 'tsunami'"),
        ({"rate": 200.0, "crowd_factor": 20.0}, "rate: 4000 requests/s at the peak"),
        ({"around_s": 90.0}, "length: 200 s"),
        ({"shape": "replay"}, "RECSYS_DASHBOARD_EVENTS"),
        ({"lane_us": 2_000.0}, "emulated devices: 2000 µs per slot"),
    ],
)
def test_plans_are_bounded(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(BurstError, match=named):
        Plan(**wrong)


def test_phases_of_a_plan() -> None:
    plan = Plan(around_s=10, crowd_s=20)
    assert [plan.phase_at(t) for t in (0, 9.9, 10, 29, 31, 40)] == [
        "before", "before", "during", "during", "after", "ending",
    ]  # fmt: skip
    assert Plan(shape="steady", around_s=30).phase_at(20) == "running"


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_one_that_the_load_test_takes(shape: str) -> None:
    plan = Plan(shape=shape, around_s=7, crowd_s=9, events_file="events.csv")
    parser = configargparse.ArgumentParser()
    add_arguments(parser)
    options = Options.from_namespace(parser.parse_args(plan.arguments()))
    phases = list(phases_of(options))
    assert sum(phase.seconds for phase in phases) == pytest.approx(plan.seconds)
    assert max(phase.rate_per_s for phase in phases) == pytest.approx(plan.peak, rel=0.01)


def test_the_board_offers_every_shape_that_ends() -> None:
    assert set(SHAPES) == set(SHAPE_NAMES) - ENDLESS == set(NAMES)


def test_a_sick_expert_needs_the_key(lab: Lab, served: Any, tastes: str) -> None:
    with pytest.raises(BurstError, match="needs the admin key"):
        lab.start(Plan(shape="dead_expert"), url=served.url, tastes=tastes)


def test_emulated_devices_need_the_key_and_one_that_the_service_takes(lab: Lab, served: Any, tastes: str) -> None:
    plan = Plan(lane_us=60.0)
    with pytest.raises(BurstError, match="needs the admin key"):
        lab.start(plan, url=served.url, tastes=tastes)
    with pytest.raises(RefusedError) as refused:
        lab.start(plan, url=served.url, tastes=tastes, key="guess")
    assert refused.value.wrong_key
    assert lab.run() is None


def test_emulated_devices_last_as_long_as_the_run(lab: Lab, served: Any, tastes: str) -> None:
    lab.start(replace(QUICK, lane_us=60.0), url=served.url, tastes=tastes, key="a-key-for-tests")
    assert served.fake.lane_us == 60.0
    run = finished(lab)
    assert 60.0 in {s.lane_us for s in run.snapshots}
    (asked, for_s), (after, _) = served.fake.lane_log
    assert (asked, after) == (60.0, 0.0)
    assert for_s > QUICK.seconds, "the service takes them back by itself, should the board die"
    assert "emulated: one device per expert, 60 µs a slot" in report.html(run)


def test_two_policies_of_one_crowd_are_held_side_by_side(made_up_service: Any) -> None:
    fake = made_up_service(lane_us=60.0)
    fake.flash_crowd(5, ago_s=120)
    newest = fake.snapshots(120)[-1].ts
    told: list[LoadSnapshot] = []
    for policy, since_s in (("price", 40), ("topk", 28), ("price", 20)):
        fake.policy = policy
        told = [s for s in told if s.ts < newest - 1_000 * since_s]
        told += [
            msgspec.convert(asdict(fake._snapshot("e", ts)), LoadSnapshot)
            for ts in range(newest - 1_000 * since_s, newest, 250)
        ]
    run = Run(plan=Plan(around_s=10, crowd_s=20), elapsed_s=40.0, snapshots=tuple(told))
    table = report.by_policy(run)
    assert table.columns == ["", "price", "topk"]
    figures = {row[0]: [float(cell.replace(",", "")) for cell in row[1:]] for row in table.iter_rows()}
    for worse in ("p99 in the engine, ms (median of quarter seconds)", "busiest ÷ mean, × worked"):
        assert figures[worse][0] < figures[worse][1], worse
    two_engines = tuple(
        msgspec.structs.replace(s, engine=engine, refused=5, interval_ms=250.0, answered=s.answered * (n % 2))
        for n, s in enumerate(told)
        for engine in "ab"
    )
    refused = report.by_policy(replace(run, snapshots=two_engines)).rows()[3]
    assert refused == ("refused by the engines, queries/s", "40.0", "40.0"), "of both, answers or not"
    assert report.by_policy(replace(run, snapshots=tuple(s for s in told if s.policy == "price"))).is_empty()
    assert report.by_policy(replace(run, plan=Plan(shape="steady"))).is_empty()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    assert "does not name a file" in missing("")[0]
    assert "no such file" in missing(str(tmp_path / "tastes.json"))[0]


def test_a_run_and_its_report(lab: Lab, served: Any, tastes: str) -> None:
    served.fake.items |= {f"i{n}": {"title": f"Film {n}", "categories": ["drama"]} for n in range(60, 150)}
    lab.start(QUICK, url=served.url, tastes=tastes)
    with pytest.raises(BurstError, match="goes on already"):
        lab.start(QUICK, url=served.url, tastes=tastes)
    run = finished(lab)
    assert run.summary is not None, run.error
    assert not run.stopped
    table = report.phase_table(run.summary)
    assert table.columns == ["", "before", "during", "after"]
    assert run.snapshots
    offered = dict(table.select("", "during").iter_rows())["offered, requests/s"]
    assert float(offered) > 15
    text = report.html(run)
    assert text.count("<svg") == 3
    assert "http" not in text, "the file needs nobody"
    assert "In the crowd" in report.headline(run)


def test_a_run_is_stopped_when_asked_and_still_reports(lab: Lab, served: Any, tastes: str) -> None:
    lab.start(Plan(shape="steady", rate=5, around_s=60), url=served.url, tastes=tastes)
    deadline = time.monotonic() + 20
    while not served.fake.requests:
        assert time.monotonic() < deadline, "no request came"
        time.sleep(0.05)
    lab.stop()
    run = finished(lab)
    assert run.stopped
    assert run.summary is not None, run.error
    assert run.elapsed_s < 30


def test_a_run_that_cannot_start_says_why(lab: Lab, served: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "tastes.json"
    wrong.write_text("{}")
    lab.start(QUICK, url=served.url, tastes=str(wrong))
    run = finished(lab)
    assert run.summary is None
    assert "exit code 2" in run.error
    assert "tastes" in run.error
    assert "exit code 2" in report.headline(run)


def test_broken_bounds_are_told_in_words() -> None:
    bounds = [
        {"option": "min_achieved", "phase": "crowd", "value": 0.918, "limit": 0.98, "ok": False},
        {"option": "max_error_share", "phase": "events of calm", "value": None, "limit": 0.01, "ok": False},
        {"option": "max_shed_share", "phase": "calm", "value": 0.0, "limit": 1.0, "ok": True},
    ]
    crowd, calm = report.broken_bounds({"thresholds": bounds})
    assert crowd.startswith("during: 91.8% of the requests went out on time, at least 98% should")
    assert calm.startswith("events of before: nothing of the answers were errors, at most 1%")
