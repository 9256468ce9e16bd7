"""kill -9 of workers and of Redis in the middle of 20,000 events: afterwards each has been counted exactly once."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from recsys.config import EventSettings, RedisSettings, Settings
from recsys.events.backlog import read_backlog
from recsys.events.producer import BulkProducer
from recsys.events.schema import KINDS
from recsys.state.keys import Keys

EVENTS, USERS, ITEMS = 20_000, 200, 150
PER_S = 3_000
WORKER = "from recsys.config import Settings; from recsys.events.worker import run_worker; run_worker(Settings())"


class Workers:
    """Worker processes that are killed and replaced."""

    def __init__(self, url: str, n: int) -> None:
        self._environment = os.environ | {
            "RECSYS_REDIS__URL": url,
            "RECSYS_REDIS__SOCKET_TIMEOUT_S": "0.5",
            "RECSYS_EVENTS__BATCH_MAX": "64",
            "RECSYS_EVENTS__BLOCK_MS": "100",
            "RECSYS_EVENTS__CLAIM_IDLE_MS": "300",
            "RECSYS_EVENTS__CLAIM_EVERY_MS": "100",
            "RECSYS_EVENTS__RECONNECT_MAX_S": "0.3",
            "RECSYS_EVENTS__RETAIN_ENTRIES": "1000",
            "RECSYS_EVENTS__TRIM_EVERY_MS": "100",
        }
        self.processes = [self._start() for _ in range(n)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WORKER], env=self._environment, stdout=subprocess.DEVNULL)

    def kill_one(self, rng: random.Random) -> None:
        victim = self.processes.pop(rng.randrange(len(self.processes)))
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        self.processes.append(self._start())

    def suspend_one(self, rng: random.Random, seconds: float) -> None:
        sleeper = rng.choice(self.processes)
        sleeper.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        sleeper.send_signal(signal.SIGCONT)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def workers(redis_server: Any) -> Iterator[Workers]:
    crowd = Workers(redis_server.url, 3)
    yield crowd
    crowd.close()


def events() -> Iterator[dict[str, str]]:
    began, now_ms = time.monotonic(), int(time.time() * 1000)
    for n in range(EVENTS):
        if n % 100 == 0:
            time.sleep(max(0.0, began + n / PER_S - time.monotonic()))
        yield {
            "type": "interaction",
            "event_id": f"e{n}",
            "user_id": f"u{n % USERS}",
            "item_id": f"i{n % ITEMS}",
            "kind": KINDS[n % len(KINDS)],
            "ts": str(now_ms - EVENTS + n),
        }


def write_safely(client: redis.Redis) -> None:
    """What Redis acknowledges is on its way to the disk, so that the producer's books are the truth."""
    client.config_set("appendfsync", "always")


def test_each_event_counts_exactly_once(redis_server: Any, workers: Workers, eventually: Any) -> None:
    settings = Settings(
        redis=RedisSettings(url=redis_server.url, socket_timeout_s=0.5),
        events=EventSettings(reconnect_max_s=0.2),
    )
    keys, rng = Keys(settings.redis.prefix), random.Random(0)
    sent: list[int] = []

    def produce() -> None:
        sent.append(BulkProducer(settings, backlog_max=5_000).publish(events(), pipeline=100))

    with redis.Redis.from_url(redis_server.url, decode_responses=True, retry=None) as client:
        write_safely(client)
        producer = threading.Thread(target=produce)
        producer.start()
        for chaos in ["worker", "redis", "worker", "pause", "worker", "redis", "worker", "sleeper", "redis", "worker"]:
            if not producer.is_alive():
                break
            time.sleep(rng.uniform(0.3, 0.8))
            match chaos:
                case "worker":
                    workers.kill_one(rng)
                case "sleeper":
                    workers.suspend_one(rng, 0.5)
                case "pause":
                    redis_server._process.send_signal(signal.SIGSTOP)
                    time.sleep(0.8)
                    redis_server._process.send_signal(signal.SIGCONT)
                case "redis":
                    redis_server.kill()
                    redis_server.start()
                    write_safely(client)
        producer.join()
        eventually(
            lambda: read_backlog(client, keys, settings.events.group) == 0, within_s=30, what="all events applied"
        )
        assert sent == [EVENTS]
        assert client.xlen(keys.dead) == 0
        stats = {name: int(n) for name, n in client.hgetall(keys.stats).items()}
        assert stats["applied"] == EVENTS
        assert client.hgetall(keys.item_counts) == as_text(Counter(f"i{n % ITEMS}" for n in range(EVENTS)))
        for user in range(USERS):
            mine = range(user, EVENTS, USERS)
            counts = as_text(Counter(KINDS[n % len(KINDS)] for n in mine))
            assert client.hgetall(keys.counts(f"u{user}")) == counts
            history = client.zrange(keys.history(f"u{user}"), 0, -1)
            expected = [f"i{n % ITEMS}" for n in mine if KINDS[n % len(KINDS)] != "hide"]
            assert [member.split("|")[2] for member in history] == expected[-settings.state.history_max :]


def as_text(counter: Counter[str]) -> dict[str, str]:
    return {name: str(n) for name, n in counter.items()}
