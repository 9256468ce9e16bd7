"""The learner among the real processes: a new item is recommended soon, and a killed learner loses nothing."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from recsys.config import EngineSettings, OnlineSettings, Settings
from recsys.events.backlog import read_backlog
from recsys.online.learner import Learner


@pytest.mark.e2e
def test_a_new_item_is_recommended_after_its_first_events(
    tmp_path: Path, start_service: Any, tiny_model: Path, eventually: Callable[..., None]
) -> None:
    shutil.copytree(tiny_model, tmp_path / "models" / "tiny")
    quick = {
        "RECSYS_ENGINE__MODELS_DIR": str(tmp_path / "models"),
        "RECSYS_ONLINE__PUBLISH_EVERY_S": "0.5",
        "RECSYS_ONLINE__GUARD_EVENTS_MIN": "5",
        "RECSYS_ONLINE__LEARNING_RATE": "0.3",
    }
    with start_service(tmp_path, **quick) as service, httpx.Client(base_url=service.base, timeout=30) as http:
        service.start("learner")
        log = tmp_path / "learner.log"
        eventually(lambda: "learner_started" in log.read_text(), within_s=60, what="learner started")
        http.post(
            "/v1/events", json={"events": [{"type": "item", "item_id": "new", "title": "New"}]}
        ).raise_for_status()

        def shown() -> bool:
            body = {"history": ["i1", "i2", "i3"], "k": 10}
            return "new" in [one["item_id"] for one in http.post("/v1/recommendations", json=body).json()["items"]]

        assert not shown(), "what nobody took and has no content is not among the best"
        users = iter(range(100_000))

        def taken_until_shown() -> bool:
            for user in (f"n{next(users)}" for _ in range(5)):
                kinds = [("i1", 3), ("i2", 2), ("i3", 1), ("new", 0)]
                now = time.time_ns() // 1_000_000
                events = [
                    {"type": "interaction", "user_id": user, "item_id": i, "kind": "view", "ts": now - 1_000 * ago}
                    for i, ago in kinds
                ]
                http.post("/v1/events", json={"events": events}).raise_for_status()
            return shown()

        eventually(taken_until_shown, within_s=90, what="the new item recommended")
        served = http.get("/v1/models").json()
        assert "-online-" in served["models"][0]["model_version"]
        rolled = http.post("/v1/models/rollback", headers=service.admin)
        assert rolled.status_code == 200, rolled.text


@contextmanager
def running(learner: Learner) -> Iterator[Learner]:
    stop = threading.Event()
    thread = threading.Thread(target=learner.run, args=(stop,))
    thread.start()
    try:
        yield learner
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def learning(make_stream: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> Callable[..., tuple[Any, Settings]]:
    """A stream with a worker and nine items, and settings for learners on it."""

    def make(**online: Any) -> tuple[Any, Settings]:
        shutil.copytree(tiny_model, tmp_path / "tiny")
        stream = make_stream()
        stream.start_worker()
        for n in range(1, 10):
            stream.add(type="item", item_id=f"i{n}", title="t")
        stream.settle()
        update = {"engine": EngineSettings(model_dir=tmp_path / "tiny"), "online": OnlineSettings(**online)}
        return stream, stream.settings.model_copy(update=update)

    return make


def await_group(stream: Any) -> None:
    stream.eventually(lambda: len(stream.redis.xinfo_groups(stream.keys.events)) == 2, what="a group of its own")


def count(counter: Any) -> int:
    return int(next(sample.value for metric in counter.collect() for sample in metric.samples))


def test_what_a_stopped_learner_had_not_published_is_learned_again(
    learning: Callable[..., tuple[Any, Settings]],
) -> None:
    stream, settings = learning(publish_every_s=0.2, guard_events_min=30)

    def waiting() -> int:
        return int(read_backlog(stream.redis, stream.keys, settings.online.group))

    with running(Learner(settings)) as first:
        await_group(stream)
        for n in range(20):
            stream.interact(f"u{n}", f"i{n % 9 + 1}")
        stream.eventually(lambda: count(first.metrics.events) == 20, what="20 events learned")
    assert waiting() == 20, "too few to publish, so none is acknowledged"
    with running(Learner(settings)) as second:
        stream.eventually(lambda: count(second.metrics.events) == 20, what="the same 20 learned again")
        for n in range(20, 40):
            stream.interact(f"u{n}", f"i{n % 9 + 1}")
        decided = lambda: count(second.metrics.published) + count(second.metrics.rolled_back)  # noqa: E731
        stream.eventually(decided, what="published or rolled back")
        stream.eventually(lambda: waiting() <= 10, what="what led to it is acknowledged")


def test_one_user_with_thousands_of_events_for_one_item_is_heard_once(
    learning: Callable[..., tuple[Any, Settings]],
) -> None:
    stream, settings = learning(publish_every_s=1e6, user_items_max=3)
    with running(Learner(settings)) as learner:
        await_group(stream)
        for _ in range(200):
            stream.interact("loud", "i9", ts=10**12)  # always before all that is remembered, so that it looks new
        for n in range(1, 9):
            stream.interact("many", f"i{n}")
        stream.interact("other", "i9")
        stream.eventually(lambda: count(learner.metrics.ignored) == 199 + 5, what="all but one, and all but three")
        stream.eventually(lambda: count(learner.metrics.events) == 1 + 3 + 1, what="the others learned")


def test_too_few_events_to_judge_publish_nothing_and_hold_nothing(
    learning: Callable[..., tuple[Any, Settings]],
) -> None:
    stream, settings = learning(publish_every_s=0.1, guard_events=10, guard_events_min=50)
    with running(Learner(settings)) as learner:
        await_group(stream)
        stream.interact("u0", "i1")
        for n in range(1, 20):
            stream.interact(f"u{n}", "not in the catalogue")
        stream.eventually(lambda: count(learner.metrics.events) == 1, what="the one learned")
        stream.eventually(
            lambda: read_backlog(stream.redis, stream.keys, settings.online.group) < 10, what="none is held"
        )
    assert count(learner.metrics.published) + count(learner.metrics.rolled_back) == 0


def test_of_two_learners_one_waits(learning: Callable[..., tuple[Any, Settings]]) -> None:
    stream, settings = learning()
    second = Learner(settings)
    with running(Learner(settings)) as first:
        await_group(stream)
        with running(second):
            stream.interact("u1", "i1")
            stream.eventually(lambda: count(first.metrics.events) == 1, what="the first learns")
            assert count(second.metrics.events) == 0
    with running(Learner(settings)) as third:
        stream.eventually(lambda: count(third.metrics.events) == 1, what="what was not published is learned again")


def test_a_version_that_an_engine_refuses_is_taken_back(learning: Callable[..., tuple[Any, Settings]]) -> None:
    stream, settings = learning(publish_every_s=0.2, guard_events_min=5, guard_tolerance=1.0)

    def wanted() -> tuple[str, str]:
        found = stream.redis.hgetall(stream.keys.models)
        return found.get("activation", ""), found.get("wanted", "")

    with running(Learner(settings)) as learner:
        await_group(stream)
        for n in range(20):
            stream.interact(f"u{n}", f"i{n % 9 + 1}")
        stream.eventually(lambda: "-online-" in wanted()[1], what="published")
        stream.redis.hset(stream.keys.models, mapping={"refused": wanted()[0], "why": "out of memory"})
        stream.eventually(lambda: wanted()[1] == "tiny", what="the version before is wanted again")
        stream.eventually(lambda: count(learner.metrics.refused) == 1, what="counted")
