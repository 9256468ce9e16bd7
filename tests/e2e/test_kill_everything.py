"""kill -9 of every process in the middle of 20,000 events: each event takes effect exactly once."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

pytestmark = pytest.mark.e2e

EVENTS = 20_000
BATCH = 100
USERS = 40
KINDS = ("view", "click", "like", "purchase")


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, start_service: Any) -> Iterator[Any]:
    """A service to be killed, with quick take-over of dead workers' entries."""
    with start_service(
        tmp_path_factory.mktemp("victim"), RECSYS_EVENTS__CLAIM_IDLE_MS="500", RECSYS_EVENTS__CLAIM_EVERY_MS="100"
    ) as running:
        yield running


def make_events() -> list[dict[str, str]]:
    random_ = random.Random(11)
    return [
        {
            "event_id": f"kill-{n}",
            "user_id": f"victim-{random_.randrange(USERS)}",
            "item_id": f"i{random_.randrange(150)}",
            "kind": random_.choice(KINDS),
        }
        for n in range(EVENTS)
    ]


class Sender(threading.Thread):
    """Posts batches in order; repeats a batch until it is answered, as a careful client would."""

    def __init__(self, base: str, events: list[dict[str, str]]) -> None:
        super().__init__(daemon=True)
        self._base = base
        self._events = events
        self.repeats = 0
        self.sent = threading.Semaphore(0)
        self.stop = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self._base, timeout=5) as http:
            for start in range(0, EVENTS, BATCH):
                while not self.stop.is_set() and not self._post(http, self._events[start : start + BATCH]):
                    self.repeats += 1
                    self.stop.wait(0.05)
                self.sent.release()

    @staticmethod
    def _post(http: httpx.Client, batch: list[dict[str, str]]) -> bool:
        try:
            answer = http.post("/v1/events", json={"events": batch})
        except httpx.TransportError:
            return False
        assert answer.status_code in (202, 503), answer.text
        return answer.status_code == 202


def test_each_event_takes_effect_exactly_once(victim: Any, eventually: Any) -> None:
    events = make_events()
    sender = Sender(victim.base, events)
    sender.start()
    try:
        for name in ["worker", "redis", "api", "engine", "worker", "redis", "worker", "api"]:
            for _ in range(EVENTS // BATCH // 10):  # a tenth of the events between two kills
                assert sender.sent.acquire(timeout=60), victim.logs()
            if name == "redis":
                victim.redis.kill()
                victim.redis.start()
            else:
                victim.kill(name)
                victim.start(name)
        sender.join(timeout=120)
        assert not sender.is_alive(), victim.logs()
    finally:
        sender.stop.set()
    assert sender.repeats > 0  # the kills were felt

    victim.wait_ready()
    client = redis.Redis.from_url(victim.redis.url, decode_responses=True)

    def applied() -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for n in range(USERS):
            for kind, count in client.hgetall(f"recsys:u:victim-{n}:count").items():  # type: ignore[union-attr]
                found[f"victim-{n}", kind] = int(count)
        return found

    expected = Counter((event["user_id"], event["kind"]) for event in events)
    eventually(lambda: applied().total() >= EVENTS, within_s=60, what="all events applied")
    assert applied() == expected
    per_item = {item: int(count) for item, count in client.hgetall("recsys:i:count").items()}  # type: ignore[union-attr]
    assert per_item == Counter(event["item_id"] for event in events)
    client.close()
