from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from recsys.errors import InputError, ModelFolderError
from recsys.model.ranker import MoEBlock
from recsys.model.recommender import Recommender
from recsys.training.checkpoint import Progress
from recsys.training.config import TrainConfig
from recsys.training.evaluate import evaluate, table
from recsys.training.train import train


class Interrupted(Exception):
    """Stands for a power cut between two epochs."""


def quiet() -> Console:
    return Console(file=io.StringIO())


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def trained(ring: Path, tiny: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    train(ring, folder, tiny, console=quiet())
    return folder


def test_training_lowers_the_loss_and_leaves_a_report(trained: Path) -> None:
    report = json.loads((trained / "training.json").read_text())
    losses = [entry["loss"] for entry in report["curve"] if entry["phase"] == "retrieval"]
    assert losses[-1] < 0.6 * losses[0]
    assert {entry["phase"] for entry in report["curve"]} == {"retrieval", "ranking"}
    assert sorted(path.name for path in trained.parent.iterdir()) == ["model"]  # the checkpoint is gone


def test_the_served_path_beats_the_baselines_it_should_beat(trained: Path, ring: Path) -> None:
    rows = evaluate(trained, ring, console=quiet())
    value = {row["method"].split()[0]: row["ndcg_10"] for row in rows}
    assert value["served"] > 0.5
    assert value["served"] > 4 * value["popularity"]
    assert value["served"] > value["item-to-item"]
    assert value["served"] > value["retrieval"] - 0.03
    console = quiet()
    console.print(table(rows))
    json.dumps(rows)


def test_every_expert_is_used_and_they_differ(trained: Path) -> None:
    model = Recommender.from_pretrained(trained)
    entry = json.loads((trained / "training.json").read_text())["curve"][-1]
    assert all(ratio < 2.0 for ratio in entry["load_max_over_mean"])
    for block in model.ranker.blocks:
        assert isinstance(block, MoEBlock)
        up_ED = block.experts.up_ED2H.flatten(1)
        cosine_EE = torch.nn.functional.cosine_similarity(up_ED[:, None], up_ED[None], dim=-1)
        assert (cosine_EE - torch.eye(len(cosine_EE))).abs().max() < 0.9


def test_a_seed_repeats_a_run_and_another_does_not(ring: Path, tiny: TrainConfig, tmp_path: Path) -> None:
    short = dataclasses.replace(tiny, retrieval_epochs=2, ranking_epochs=1)
    one, two = (train(ring, tmp_path / name, short, console=quiet()).state_dict() for name in ("one", "two"))
    assert same(one, two)
    other = train(ring, tmp_path / "other", dataclasses.replace(short, seed=1), console=quiet())
    assert not same(one, other.state_dict())


@pytest.mark.parametrize("stop_after", [("retrieval", 1), ("retrieval", 3), ("ranking", 1)])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    ring: Path, tiny: TrainConfig, tmp_path: Path, stop_after: tuple[str, int]
) -> None:
    short = dataclasses.replace(tiny, retrieval_epochs=3, ranking_epochs=2, weight_average=0.9)

    def interrupt(progress: Progress) -> None:
        if (progress.phase, progress.epoch) == stop_after:
            raise Interrupted

    whole = train(ring, tmp_path / "whole", short, console=quiet())
    with pytest.raises(Interrupted):
        train(ring, tmp_path / "parts", short, console=quiet(), on_epoch=interrupt)
    epochs: list[tuple[str, int]] = []
    parts = train(
        ring, tmp_path / "parts", short, console=quiet(), on_epoch=lambda p: epochs.append((p.phase, p.epoch))
    )
    assert stop_after not in epochs
    assert same(whole.state_dict(), parts.state_dict())


def test_a_ranker_may_be_trained_over_a_finished_encoder(
    ring: Path, tiny: TrainConfig, trained: Path, tmp_path: Path
) -> None:
    twin = TrainConfig.from_json({"model": {"experts": 1, "k": 1}, "ranking_epochs": 1}, tiny)
    phases: set[str] = set()
    model = train(
        ring, tmp_path / "twin", twin, encoder_from=trained, console=quiet(), on_epoch=lambda p: phases.add(p.phase)
    )
    assert phases == {"ranking"}
    before = Recommender.from_pretrained(trained).state_dict()
    for name, weight in model.state_dict().items():
        assert name.startswith("ranker.") or torch.equal(weight, before[name]), name
    wider = TrainConfig.from_json({"model": {"width": 32}}, tiny)
    with pytest.raises(InputError, match="differs from the config in"):
        train(ring, tmp_path / "wider", wider, encoder_from=trained, console=quiet())
    cut = dataclasses.replace(tiny, protocol="time", test_share=0.5)
    with pytest.raises(InputError, match="trained on other"):
        train(ring, tmp_path / "cut", cut, encoder_from=trained, console=quiet())


def test_a_checkpoint_of_another_run_is_refused(ring: Path, tiny: TrainConfig, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        train(ring, tmp_path / "model", tiny, console=quiet(), on_epoch=interrupt)
    other = dataclasses.replace(tiny, seed=9, retrieval_epochs=1, ranking_epochs=0)
    with pytest.raises(ModelFolderError, match="another config or other data"):
        train(ring, tmp_path / "model", other, console=quiet())
    train(ring, tmp_path / "model", other, console=quiet(), resume=False)


def test_a_damaged_checkpoint_is_refused(ring: Path, tiny: TrainConfig, tmp_path: Path) -> None:
    path = tmp_path / "model.checkpoint" / "checkpoint.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"\x08\x00")
    with pytest.raises(ModelFolderError, match="not a complete checkpoint"):
        train(ring, tmp_path / "model", tiny, console=quiet())


def test_training_leaves_the_callers_random_state_alone(ring: Path, tiny: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(ring, tmp_path / "m", dataclasses.replace(tiny, retrieval_epochs=1, ranking_epochs=0), console=quiet())
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"full_softmax_items": 0, "sampled_negatives": 64},
        {"protocol": "time", "test_share": 0.2},
        {"protocol": "none"},
        {"ranking_to_encoder": True},
        {"precision": "bfloat16"},
        {"batch": 1_000, "ranking_batch": 1_000},
        {"balance": "loss", "model": {"shared_expert": False}},
        {"balance": "none", "goal_weights": [0, 1]},
        {"weight_average": 0.9, "model": {"ranker_ages": 8}},
    ],
    ids=lambda changes: next(iter(changes)) + "=" + str(next(iter(changes.values()))),
)
def test_every_way_of_training_runs(ring: Path, tiny: TrainConfig, tmp_path: Path, changes: dict[str, object]) -> None:
    short = TrainConfig.from_json({"retrieval_epochs": 2, "ranking_epochs": 1} | changes, tiny)
    model = train(ring, tmp_path / "model", short, console=quiet())
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_evaluation_refuses_what_the_model_has_seen(
    ring: Path, tiny: TrainConfig, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="'time', but the model was trained for 'leave_one_out'"):
        evaluate(trained, ring, "time")
    everything = dataclasses.replace(tiny, protocol="none", retrieval_epochs=1, ranking_epochs=0)
    train(ring, tmp_path / "all", everything, console=quiet())
    with pytest.raises(InputError, match="'none' keeps no events out"):
        evaluate(tmp_path / "all", ring)


def test_evaluation_refuses_other_data(ring: Path, trained: Path, tmp_path: Path) -> None:
    from recsys.data.dataset import Dataset

    dataset = Dataset.load(ring)
    longer = dataclasses.replace(dataset, interactions=dataset.interactions.head(1_500))
    longer.save(tmp_path / "other")
    with pytest.raises(InputError, match="not the data that"):
        evaluate(trained, tmp_path / "other")


def test_evaluation_needs_the_report(ring: Path, trained: Path, tmp_path: Path) -> None:
    Recommender.from_pretrained(trained).save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelFolderError, match=r"training\.json"):
        evaluate(tmp_path / "bare", ring)
