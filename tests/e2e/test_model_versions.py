"""Another model version under load: no request is lost, and a broken folder changes nothing."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with three more versions of the small model: one good, one of another shape, one broken."""
    import torch

    from recsys.model.config import ModelConfig
    from recsys.model.recommender import Recommender

    folder = tmp_path_factory.mktemp("versions")
    shutil.copytree(tiny_model, folder / "tiny")
    first = Recommender.from_pretrained(tiny_model)
    torch.manual_seed(7)
    for version, experts in (("second", 8), ("wide", 12)):
        config = ModelConfig(**first.vocabulary.sizes(), width=32, experts=experts)
        Recommender(config, first.vocabulary, version=version).save_pretrained(folder / version)
    broken = folder / "cut off"
    shutil.copytree(folder / "second", broken)
    head = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**head, "version": "broken"}))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2_000])
    (folder / "no model").mkdir()
    return folder


@pytest.fixture(scope="module")
def swapping(tmp_path_factory: pytest.TempPathFactory, start_service: Any, versions: Path) -> Iterator[Any]:
    """Two engines that may choose between these versions, with spare slots to deal out."""
    environment = {"RECSYS_ENGINE__MODELS_DIR": str(versions), "RECSYS_ROUTER__SPARE_SLOTS": "2"}
    with start_service(tmp_path_factory.mktemp("swapping"), 2, **environment) as running:
        yield running


@pytest.fixture
def http(swapping: Any, eventually: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=swapping.base, timeout=60, headers=swapping.admin) as client:
        eventually(lambda: len(client.get("/v1/models").json()["models"]) == 2, what="two engines heard of")
        yield client


class Asking(threading.Thread):
    """Asks without a pause until told to stop."""

    def __init__(self, base: str) -> None:
        super().__init__(daemon=True)
        self._base = base
        self.stop = threading.Event()
        self.answers: list[tuple[int, str | None, str]] = []

    def run(self) -> None:
        body = {"history": ["i1", "i2"], "k": 5}
        with httpx.Client(base_url=self._base, timeout=30, headers={"X-Deadline-Ms": "10000"}) as http:
            while not self.stop.is_set():
                answer = http.post("/v1/recommendations", json=body)
                found = answer.json()
                self.answers.append((answer.status_code, found.get("fallback"), found.get("model_version", "")))


def test_what_there_is(http: httpx.Client) -> None:
    found = http.get("/v1/models").json()
    assert {model["model_version"] for model in found["models"]} == {"tiny"}
    assert found["available"] == ["broken", "second", "tiny", "wide"]
    assert found["previous"] is None


def test_versions_change_under_load_without_a_lost_request(swapping: Any, http: httpx.Client) -> None:
    callers = [Asking(swapping.base) for _ in range(4)]
    for caller in callers:
        caller.start()
    for version in ("second", "wide", "tiny"):
        answer = http.post(f"/v1/models/{version}/activate")
        assert answer.status_code == 200, answer.text
        assert {model["model_version"] for model in answer.json()["models"]} == {version}
        now = http.post("/v1/recommendations", json={"history": ["i1"], "k": 5}).json()
        assert (now["model_version"], len(now["items"])) == (version, 5)
    time.sleep(0.2)
    for caller in callers:
        caller.stop.set()
        caller.join()
    seen = Counter((status, fallback) for caller in callers for status, fallback, _ in caller.answers)
    assert set(seen) == {(200, None)}, seen
    assert {version for caller in callers for _, _, version in caller.answers} == {"tiny", "second", "wide"}


def test_hot_experts_get_the_spare_slots(http: httpx.Client, eventually: Any) -> None:
    http.post("/v1/models/tiny/activate").raise_for_status()

    def dealt() -> bool:
        http.post("/v1/recommendations", json={"history": ["i1"], "k": 5})
        for snapshot in http.get("/v1/experts?window_s=2").json()["snapshots"]:
            demand = [sum(layer["demand"][e] for layer in snapshot["layers"]) for e in range(len(snapshot["replicas"]))]
            if any(demand) and snapshot["replicas"][demand.index(max(demand))] > 1:
                return sum(snapshot["replicas"]) == 8 + 2
        return False

    eventually(dealt, within_s=30, what="a second slot for the hottest expert")


def test_a_rollback_brings_back_the_version_before(http: httpx.Client) -> None:
    http.post("/v1/models/tiny/activate").raise_for_status()
    http.post("/v1/models/second/activate").raise_for_status()
    for version, previous in (("tiny", "second"), ("second", "tiny")):
        found = http.post("/v1/models/rollback").json()
        assert {model["model_version"] for model in found["models"]} == {version}
        assert (found["wanted"], found["previous"]) == (version, previous)


def test_a_broken_folder_leaves_the_old_version_serving_and_says_why(http: httpx.Client, eventually: Any) -> None:
    before = http.post("/v1/models/tiny/activate").json()
    answer = http.post("/v1/models/broken/activate")
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert "model.safetensors" in answer.json()["detail"]
    assert "'tiny' goes on serving" in answer.json()["detail"]
    assert http.get("/v1/models").json() == before
    found = http.post("/v1/recommendations", json={"history": ["i1"], "k": 5}).json()
    assert (found["model_version"], found["fallback"]) == ("tiny", None)


def test_an_unknown_version_and_a_missing_key(swapping: Any, http: httpx.Client) -> None:
    answer = http.post("/v1/models/none-such/activate")
    assert (answer.status_code, answer.json()["field"]) == (404, "version")
    assert answer.headers["content-type"] == "application/problem+json"
    for call in ("tiny/activate", "rollback"):
        assert httpx.post(f"{swapping.base}/v1/models/{call}").status_code == 401


def test_an_engine_that_comes_back_serves_what_was_activated(
    swapping: Any, http: httpx.Client, eventually: Any
) -> None:
    http.post("/v1/models/second/activate").raise_for_status()
    for name in ("engine", "engine-2"):
        swapping.kill(name)
    swapping.start("engine")
    swapping.wait_ready()
    found = http.post("/v1/recommendations", json={"history": ["i1"], "k": 5}).json()
    assert (found["model_version"], found["fallback"]) == ("second", None)
    swapping.start("engine-2")
