"""Names, folders and the wanted version of what was learned."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import redis

from recsys.config import EngineSettings, OnlineSettings, RedisSettings, Settings
from recsys.errors import ModelFolderError
from recsys.model.recommender import Recommender
from recsys.online.published import Published
from recsys.state.keys import Keys


@pytest.fixture
def published(redis_url: str, tmp_path: Path, tiny_model: Path) -> Published:
    shutil.copytree(tiny_model, tmp_path / "tiny")
    settings = Settings(
        redis=RedisSettings(url=redis_url),
        engine=EngineSettings(model_dir=tmp_path / "tiny"),
        online=OnlineSettings(versions_kept=2),
    )
    return Published(settings, redis.Redis.from_url(redis_url), Keys())


def learned(published: Published, before: str) -> Recommender:
    model = published.load("")
    model.version = published.next_version(before)
    return model


def test_a_version_is_published_loaded_and_named_anew(published: Published) -> None:
    first = learned(published, "tiny")
    assert published.publish(first, before="tiny")
    assert published.wanted() == first.version == "tiny-online-000001"
    assert published.load(first.version).version == first.version
    assert published.next_version("tiny") == "tiny-online-000002", "also after a roll-back to the first model"
    with pytest.raises(ModelFolderError, match="no model folder of version 'x'"):
        published.load("x")


def test_what_somebody_activated_meanwhile_stays(published: Published, redis_url: str) -> None:
    redis.Redis.from_url(redis_url).hset(Keys().models, "wanted", "another")
    assert not published.publish(learned(published, "tiny"), before="tiny")
    assert published.wanted() == "another"


def test_old_versions_go_but_never_the_one_a_rollback_brings(published: Published, tmp_path: Path) -> None:
    version = "tiny"
    for _ in range(4):
        model = learned(published, version)
        published.publish(model, before=version)
        version = model.version
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny", "tiny-online-000003", "tiny-online-000004"]


def test_what_a_killed_learner_left_half_written_stops_nothing_and_goes(published: Published, tmp_path: Path) -> None:
    (tmp_path / ".tiny-online-000001-x7_q").mkdir()
    (tmp_path / "tiny-online-000007-by-hand").mkdir()
    assert published.publish(learned(published, "tiny"), before="tiny")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "tiny", "tiny-online-000001", "tiny-online-000007-by-hand",
    ]  # fmt: skip


def test_an_old_version_that_somebody_activated_keeps_its_folder(
    published: Published, redis_url: str, tmp_path: Path
) -> None:
    version = "tiny"
    for _ in range(2):
        model = learned(published, version)
        published.publish(model, before=version)
        version = model.version
    redis.Redis.from_url(redis_url).hset(Keys().models, mapping={"wanted": "tiny-online-000001", "previous": version})
    for _ in range(3):
        assert not published.publish(learned(published, version), before="tiny-online-000002")
    assert (tmp_path / "tiny-online-000001").is_dir()


def test_a_version_that_an_engine_cannot_serve_is_withdrawn(published: Published, redis_url: str) -> None:
    client, model = redis.Redis.from_url(redis_url), learned(published, "tiny")
    assert published.publish(model, before="tiny")

    def engine_says(activation: str, error: str) -> None:
        client.hset(Keys().models, mapping={"refused": activation, "why": error})

    assert not published.withdraw_refused(), "no engine has answered yet"
    engine_says("of another call", "broken")
    assert not published.withdraw_refused()
    assert published.wanted() == model.version
    engine_says((client.hget(Keys().models, "activation") or b"").decode(), "broken")
    assert published.withdraw_refused() == "broken"
    assert published.wanted() == "tiny"
    assert not published.withdraw_refused(), "once"


def test_what_somebody_activated_after_it_is_not_withdrawn(published: Published, redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    assert published.publish(learned(published, "tiny"), before="tiny")
    activation = (client.hget(Keys().models, "activation") or b"").decode()
    client.hset(Keys().models, mapping={"refused": activation, "why": "broken"})
    client.hset(Keys().models, mapping={"activation": "newer", "wanted": "another"})
    published.withdraw_refused()
    assert published.wanted() == "another"
