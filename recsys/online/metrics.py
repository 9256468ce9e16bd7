"""What the learner tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class LearnerMetrics:
    """One registry per learner."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.events = Counter("recsys_learner_events", "Interactions learned from", registry=registry)
        self.ignored = Counter(
            "recsys_learner_ignored",
            "Interactions of users who had been heard on the item, or enough",
            registry=registry,
        )
        self.skipped = Counter("recsys_learner_skipped", "Entries skipped to catch up", registry=registry)
        self.published = Counter("recsys_learner_published", "Versions published", registry=registry)
        self.rolled_back = Counter(
            "recsys_learner_rolled_back", "Times that what was learned was worse and forgotten", registry=registry
        )
        self.refused = Counter("recsys_learner_refused", "Versions that an engine could not serve", registry=registry)
        self.reconnects = Counter(
            "recsys_learner_reconnects", "Times that Redis had to be tried again", registry=registry
        )
        self.ndcg = Gauge(
            "recsys_learner_ndcg", "NDCG of the newest events before they were learned", ["model"], registry=registry
        )
