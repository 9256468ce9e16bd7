"""What became of every request of a run, by phase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from loadtest.latency import LatencyHistogram
from loadtest.shapes.phase import PhaseName

Outcome = Literal["ok", "shed", "error"]
LATE_MS = 100.0
KINDS_MAX = 32


def classify(status: int) -> Outcome:
    """Shed is an answer the service chose to refuse (503, 429); an error is everything else that is not 2xx."""
    if 200 <= status < 300:
        return "ok"
    return "shed" if status in (429, 503) else "error"


@dataclass(slots=True)
class Counts:
    """Requests of one kind in one phase; the phase is that of the intended time.

    Every request that was due is in exactly one of `not_sent`, `ok`, `shed`, `errors` and unfinished.
    """

    offered: int = 0
    sent: int = 0
    not_sent: int = 0
    late: int = 0
    ok: int = 0
    shed: int = 0
    shed_without_retry_after: int = 0
    errors: int = 0
    fallback: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    error_kinds: Counter[str] = field(default_factory=Counter)
    response: LatencyHistogram = field(default_factory=LatencyHistogram)
    service: LatencyHistogram = field(default_factory=LatencyHistogram)
    shed_response: LatencyHistogram = field(default_factory=LatencyHistogram)
    lag: LatencyHistogram = field(default_factory=LatencyHistogram)

    def record_sent(self, lag_ms: float) -> None:
        """A request went out, `lag_ms` after it was due."""
        self.sent += 1
        self.late += lag_ms > LATE_MS
        self.lag.record(lag_ms)

    def record(self, outcome: Outcome, *, response_ms: float, service_ms: float, kind: str = "") -> None:
        """A request ended: `response_ms` since it was due, `service_ms` since it was sent; `kind` of an error."""
        if outcome == "ok":
            self.ok += 1
            self.response.record(response_ms)
            self.service.record(service_ms)
        elif outcome == "shed":
            self.shed += 1
            self.shed_response.record(response_ms)
        else:
            self.errors += 1
            self.error_kinds[kind if kind in self.error_kinds or len(self.error_kinds) < KINDS_MAX else "other"] += 1

    def record_step(self, step: str, *, fallback: bool) -> None:
        """What the answer says it gave up."""
        self.steps[step if step in self.steps or len(self.steps) < KINDS_MAX else "other"] += 1
        self.fallback += fallback

    def packed(self) -> dict[str, Any]:
        """Plain numbers and maps, for another process to add."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return {
            name: value.packed()
            if isinstance(value, LatencyHistogram)
            else dict(value)
            if isinstance(value, Counter)
            else value
            for name, value in values.items()
        }

    def add(self, packed: Mapping[str, Any]) -> None:
        """Count also what another process has counted."""
        for name, value in packed.items():
            own = getattr(self, name)
            if isinstance(own, LatencyHistogram):
                own.add(value)
            elif isinstance(own, Counter):
                own.update(value)
            else:
                setattr(self, name, own + value)

    @property
    def answered(self) -> int:
        """Requests that ended in any way."""
        return self.ok + self.shed + self.errors

    @property
    def error_share(self) -> float:
        """Errors among what was answered."""
        return self.errors / self.answered if self.answered else 0.0

    @property
    def achieved_share(self) -> float:
        """Share of the offered requests that went out at most 100 ms late."""
        return (self.sent - self.late) / self.offered if self.offered else 1.0

    def to_json(self, seconds: float) -> dict[str, Any]:
        """All counts, rates over `seconds`, and latencies in milliseconds."""
        rate = (lambda n: round(n / seconds, 3)) if seconds > 0 else (lambda n: 0.0)
        return {
            "seconds": round(seconds, 3),
            "offered": self.offered,
            "sent": self.sent,
            "not_sent": self.not_sent,
            "late": self.late,
            "ok": self.ok,
            "shed": self.shed,
            "shed_without_retry_after": self.shed_without_retry_after,
            "errors": self.errors,
            "unfinished": self.sent - self.answered,
            "offered_per_s": rate(self.offered),
            "achieved_per_s": rate(self.sent - self.late),
            "goodput_per_s": rate(self.ok),
            "achieved_share": round(self.achieved_share, 6),
            "error_share": round(self.error_share, 6),
            "response_ms": self.response.to_json(),
            "service_ms": self.service.to_json(),
            "shed_ms": self.shed_response.to_json(),
            "lag_ms": self.lag.to_json(),
            "steps": dict(self.steps),
            "fallback": self.fallback,
            "error_kinds": dict(self.error_kinds),
        }


@dataclass(slots=True)
class Summary:
    """Counts of recommendations and of events, by phase."""

    recommendations: dict[PhaseName, Counts] = field(default_factory=dict)
    events: dict[PhaseName, Counts] = field(default_factory=dict)
    interactions: Counter[str] = field(default_factory=Counter)
    rejected: int = 0

    def of(self, phase: PhaseName) -> Counts:
        """Counts of the recommendations of a phase."""
        return self.recommendations.setdefault(phase, Counts())

    def events_of(self, phase: PhaseName) -> Counts:
        """Counts of the event batches sent after answers of a phase."""
        return self.events.setdefault(phase, Counts())

    def packed(self) -> dict[str, Any]:
        """Plain numbers and maps, for another process to add."""
        return {
            "recommendations": {name: counts.packed() for name, counts in self.recommendations.items()},
            "events": {name: counts.packed() for name, counts in self.events.items()},
            "interactions": dict(self.interactions),
            "rejected": self.rejected,
        }

    def add(self, packed: Mapping[str, Any]) -> None:
        """Count also what another process has counted."""
        for name, counts in packed["recommendations"].items():
            self.of(name).add(counts)
        for name, counts in packed["events"].items():
            self.events_of(name).add(counts)
        self.interactions.update(packed["interactions"])
        self.rejected += packed["rejected"]

    def to_json(self, seconds: Mapping[PhaseName, float]) -> dict[str, Any]:
        """Both tables, the interactions by kind and how many were rejected; `seconds` spent in each phase."""
        return {
            "phases": {name: self.of(name).to_json(spent) for name, spent in seconds.items()},
            "events": {name: self.events_of(name).to_json(spent) for name, spent in seconds.items()},
            "interactions": dict(self.interactions),
            "rejected": self.rejected,
        }
