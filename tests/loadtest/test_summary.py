"""Counts, quantiles and verdicts."""

from __future__ import annotations

from random import Random

import msgspec
import numpy as np
import pytest

from loadtest.latency import LatencyHistogram
from loadtest.options import Options
from loadtest.summary import KINDS_MAX, Counts, Summary, classify
from loadtest.thresholds import judge


@pytest.mark.parametrize("q", [0.01, 0.5, 0.95, 0.99, 0.999])
def test_quantiles_are_within_one_per_cent(q: float) -> None:
    rng, histogram = Random(1), LatencyHistogram()
    values = [rng.lognormvariate(2, 1.5) for _ in range(20_000)]
    for value in values:
        histogram.record(value)
    exact = float(np.quantile(values, q, method="inverted_cdf"))
    assert exact <= histogram.quantile(q) <= exact * 1.0101  # type: ignore[operator]


def test_extreme_latencies_stay_bounded_and_nothing_has_no_quantile() -> None:
    histogram = LatencyHistogram()
    assert histogram.quantile(0.5) is None
    assert histogram.to_json() == {"p50": None, "p95": None, "p99": None, "max": None}
    for ms in (0.0, 1e-9, 1e12):
        histogram.record(ms)
    assert histogram.count == 3
    assert histogram.quantile(1) == pytest.approx(3_600_000, rel=0.011)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "ok"),
        (202, "ok"),
        (503, "shed"),
        (429, "shed"),
        (500, "error"),
        (422, "error"),
        (304, "error"),
        (0, "error"),
    ],
)
def test_refusals_are_not_errors(status: int, outcome: str) -> None:
    assert classify(status) == outcome


def test_kinds_and_steps_that_the_service_invents_stay_bounded() -> None:
    counts = Counts()
    for n in range(1_000):
        counts.record_step(f"step{n}", fallback=False)
        counts.record("error", response_ms=1, service_ms=1, kind=f"kind{n}")
    assert len(counts.steps) <= KINDS_MAX + 1
    assert len(counts.error_kinds) <= KINDS_MAX + 1
    assert sum(counts.error_kinds.values()) == counts.errors == 1_000


def counted(*, offered: int = 100, sent: int = 100, late: int = 0, ok: int, shed: int = 0, errors: int = 0) -> Counts:
    counts = Counts(offered=offered, not_sent=offered - sent)
    for n in range(sent):
        counts.record_sent(500.0 if n < late else 1.0)
    for _ in range(ok):
        counts.record("ok", response_ms=20, service_ms=10)
    for _ in range(shed):
        counts.record("shed", response_ms=1, service_ms=1)
    for _ in range(errors):
        counts.record("error", response_ms=1, service_ms=1, kind="timeout")
    return counts


def failed(counts: Counts, **options: float) -> set[str]:
    return {v.option for v in judge(Summary({"calm": counts}), Options(**options)) if not v.ok}  # type: ignore[arg-type]


def test_a_good_run_and_one_that_sheds_pass() -> None:
    assert failed(counted(ok=100), max_p99_ms=21) == set()
    assert failed(counted(ok=10, shed=90)) == set()


def test_each_threshold_fails_alone() -> None:
    assert failed(counted(ok=98, errors=2)) == {"max_error_share"}
    assert failed(counted(ok=60, shed=40), max_shed_share=0.3) == {"max_shed_share"}
    assert failed(counted(ok=100), max_p99_ms=19) == {"max_p99_ms"}
    assert failed(counted(sent=90, ok=90)) == {"min_achieved"}
    assert failed(counted(late=10, ok=100)) == {"min_achieved"}


def test_nothing_answered_fails_rather_than_passing_for_want_of_figures() -> None:
    assert "max_error_share" in failed(counted(ok=0))
    assert "max_p99_ms" in failed(counted(ok=0, shed=100), max_p99_ms=100)


def test_the_crowd_is_compared_with_calm() -> None:
    slow = Counts(offered=1)
    slow.record_sent(1)
    slow.record("ok", response_ms=30, service_ms=30)
    summary = Summary({"calm": counted(ok=100), "crowd": slow})
    for limit, ok in ((1.4, False), (1.6, True)):
        [verdict] = [v for v in judge(summary, Options(max_p99_ratio=limit)) if v.option == "max_p99_ratio"]
        assert verdict.ok is ok
        assert "--max-p99-ratio" in str(verdict)


def test_events_that_fail_count_too() -> None:
    summary = Summary({"calm": counted(ok=100)}, {"calm": counted(ok=0, errors=100)})
    assert [v.phase for v in judge(summary, Options()) if not v.ok] == ["events of calm"]


def test_every_request_that_was_due_is_in_the_document_once() -> None:
    figures = counted(offered=100, sent=95, ok=60, shed=20, errors=10).to_json(10.0)
    parts = ("not_sent", "ok", "shed", "errors", "unfinished")
    assert sum(figures[part] for part in parts) == figures["offered"] == 100
    assert figures["offered_per_s"] == 10
    assert figures["achieved_per_s"] == 9.5
    assert figures["goodput_per_s"] == 6


def test_counts_of_two_processes_add_up_after_a_journey_as_plain_values() -> None:
    def counted(seed: int, many: int) -> Summary:
        rng, summary = Random(seed), Summary()
        for n in range(many):
            counts = summary.of("crowd" if n % 3 else "calm")
            counts.offered += 1
            counts.record_sent(rng.random())
            counts.record("ok", response_ms=rng.lognormvariate(2, 1), service_ms=1.0)
            counts.record_step("calm", fallback=False)
        summary.events_of("calm").record("error", response_ms=1, service_ms=1, kind="timeout")
        summary.interactions.update(click=many)
        return summary

    whole = Summary()
    for part in (counted(1, 500), counted(2, 300)):
        whole.add(msgspec.msgpack.decode(msgspec.msgpack.encode(part.packed())))
    told = whole.to_json({"calm": 1.0, "crowd": 1.0})
    assert sum(phase["ok"] for phase in told["phases"].values()) == 800
    assert told["interactions"] == {"click": 800}
    assert told["events"]["calm"]["error_kinds"] == {"timeout": 2}
    assert whole.of("crowd").steps == {"calm": whole.of("crowd").ok}
    latencies = [part.of("crowd").response.quantile(0.99) for part in (counted(1, 500), counted(2, 300))]
    together = whole.of("crowd").response.quantile(0.99)
    assert together is not None
    assert min(filter(None, latencies)) <= together <= max(filter(None, latencies))
