"""What a worker tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)


class WorkerMetrics:
    """One registry per worker, so that several may live in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.entries = Counter(
            "recsys_events_entries", "Entries acknowledged, by event type and outcome", ["type", "outcome"],
            registry=registry,
        )  # fmt: skip
        self.interactions = Counter(
            "recsys_events_interactions", "Interactions applied, by kind", ["kind"], registry=registry
        )
        self.late = Counter("recsys_events_late", "Interactions applied late", registry=registry)
        self.claimed = Counter("recsys_events_claimed", "Entries taken over or delivered again", registry=registry)
        self.trimmed = Counter("recsys_events_trimmed", "Applied entries cut from the stream", registry=registry)
        self.reconnects = Counter(
            "recsys_events_reconnects", "Times that Redis had to be tried again", registry=registry
        )
        self.batch_size = Histogram(
            "recsys_events_batch_size", "Entries in one atomic step", buckets=[2**n for n in range(11)],
            registry=registry,
        )  # fmt: skip
        self.batch_seconds = Histogram(
            "recsys_events_batch_seconds",
            "Time to read fields and apply one batch",
            buckets=_SECONDS,
            registry=registry,
        )
        self.delay_seconds = Histogram(
            "recsys_events_delay_seconds", "From the entry in the stream to its effect", buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.lag_seconds = Gauge(
            "recsys_events_lag_seconds", "Age difference of the newest entry and the last applied", registry=registry
        )
        self.backlog = Gauge("recsys_events_backlog", "Entries not yet applied", registry=registry)
        self.stream_entries = Gauge(
            "recsys_events_stream_entries", "Entries in the stream; grows while any group does not acknowledge",
            registry=registry,
        )  # fmt: skip
