"""An engine without its socket."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from recsys.config import EngineSettings, RedisSettings, Settings
from recsys.engine.control import Control
from recsys.engine.engine import Engine
from recsys.engine.served import model_versions
from recsys.state.items import CatalogueChange, CatalogueItem
from recsys.wire import LoadSnapshot, RankReply, RankRequest


@pytest.fixture
def engine(tiny_model: Path, tmp_path: Path) -> Engine:
    """With ten items."""
    shutil.copytree(tiny_model, tmp_path / "tiny")
    found = Engine(Settings(engine=EngineSettings(model_dir=tmp_path / "tiny", batch_max=1)))
    found.set_catalogue({f"i{n}": CatalogueItem(item_id=f"i{n}", title="t", ts=0) for n in range(10)})
    return found


def test_an_item_that_is_deleted_while_a_model_loads_stays_deleted(engine: Engine) -> None:
    coming = engine.prepare(engine.model_version)
    engine.change_catalogue(CatalogueChange(put={}, deleted=frozenset({"i3"})))
    engine.adopt(coming)
    catalogue = coming.catalogue
    assert catalogue is not None
    assert [item for item in catalogue.item_ids[1:] if not catalogue.live_I[catalogue.row(item)]] == ["i3"]


def test_an_unknown_policy_is_answered_and_never_reaches_the_device(engine: Engine) -> None:
    answer = engine.admit(b"peer", RankRequest(id="r", time_left_ms=1e3, k=1, policy="none such"))
    assert answer is not None
    reply = answer[1]
    assert isinstance(reply, RankReply)
    assert (reply.id, reply.status) == ("r", "invalid")
    assert "none such" in reply.error
    assert engine.admit(b"peer", RankRequest(id="r", time_left_ms=1e3, k=1, policy="topk")) is None


def test_half_written_folders_are_no_versions(tiny_model: Path, tmp_path: Path) -> None:
    for name in (".tiny-x7", "tiny"):
        shutil.copytree(tiny_model, tmp_path / name)
    (tmp_path / ".tiny-x7" / "model.safetensors").unlink()
    found = model_versions(Settings(engine=EngineSettings(model_dir=tmp_path / "absent", models_dir=tmp_path)))
    assert list(found.values()) == [tmp_path / "tiny"]


def test_calm_is_warmed_up_last_and_stays_among_the_shapes_that_are_kept(engine: Engine) -> None:
    served, heights = engine._served, list[int]()
    assert served.catalogue is not None
    served.warm_up(served.catalogue, "price", engine._efforts(), lambda height, *_: heights.append(height))
    assert heights == sorted(heights, reverse=True)
    assert set(heights) == {0, 1, 2, 3}


def test_an_engine_that_cannot_say_its_load_is_asked_again(redis_url: str) -> None:
    stop, asked = threading.Event(), list[int]()

    class Broken:
        name = model_version = "e"

        def snapshot(self) -> LoadSnapshot:
            asked.append(1)
            if len(asked) == 2:
                stop.set()
            raise RuntimeError("no luck")

    engine: Any = Broken()
    settings = Settings(engine=EngineSettings(snapshot_every_ms=1), redis=RedisSettings(url=redis_url))
    Control(settings, engine)._follow(stop)
    assert len(asked) == 2
