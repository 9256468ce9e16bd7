"""What is drawn of a trained model: its learning curve, and what its experts are for."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from recsys.errors import ModelFolderError
from recsys.training import curves, specialisation
from recsys.training.config import TrainConfig
from recsys.training.evaluate import kept_out
from recsys.training.train import train


@pytest.fixture(scope="module")
def trained(ring: Path, tiny: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "model"
    short = TrainConfig.from_json({"retrieval_epochs": 4, "check_every": 2}, tiny)
    train(ring, folder, short, console=Console(file=io.StringIO()))
    return folder


def test_a_learning_curve_is_drawn_from_the_report(trained: Path, tmp_path: Path) -> None:
    curve = curves.read_curve(trained)
    assert [entry["epoch"] for entry in curve] == [1, 2, 3, 4, 1, 2]
    curves.main([trained], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5_000
    with pytest.raises(ModelFolderError, match="no learning curve"):
        curves.read_curve(tmp_path)


def test_gate_weights_are_counted_by_category(trained: Path, ring: Path, tmp_path: Path) -> None:
    kept = kept_out(trained, ring)
    found = specialisation.specialisation(kept, requests=40, candidates=30)
    assert found.categories == ("Even", "Odd")
    for weight_LEC in (found.by_item_LEC, found.by_user_LEC):  # every token's gates sum to one
        torch.testing.assert_close(weight_LEC.sum((1, 2)), torch.full((2,), 40 * 30.0), rtol=1e-4, atol=0)
    specialisation.main(trained, ring, tmp_path / "e.csv", tmp_path / "e.png")
    with (tmp_path / "e.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 4 * 2
    assert (tmp_path / "e.png").stat().st_size > 5_000


def test_lift_is_one_where_an_expert_has_no_preference() -> None:
    indifferent_EC = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])
    torch.testing.assert_close(specialisation.lift(indifferent_EC), torch.ones(2, 3))
    assert float(specialisation.lift(torch.eye(4))[0, 0]) == 4.0


@torch.no_grad()
def test_no_expert_is_idle_or_a_copy(trained: Path, ring: Path) -> None:
    """Each expert gets work, and two experts answer the same tokens differently."""
    kept = kept_out(trained, ring)
    found = specialisation.specialisation(kept, requests=100, candidates=30)
    share_LE = found.by_item_LEC.sum(2) / found.by_item_LEC.sum((1, 2))[:, None]
    assert float(share_LE.min()) > 0.02 / share_LE.shape[1]
    x_TD = torch.randn(200, kept.model.config.width)
    for block in kept.model.ranker.blocks:
        up_ED2H, down_EHD = block.experts.up_ED2H, block.experts.down_EHD
        gate_ETH, value_ETH = (x_TD @ up_ED2H).chunk(2, -1)
        answers_EA = ((torch.nn.functional.silu(gate_ETH) * value_ETH) @ down_EHD).flatten(1)
        cosine_EE = torch.nn.functional.cosine_similarity(answers_EA[:, None], answers_EA[None], dim=-1)
        assert float((cosine_EE - torch.eye(len(cosine_EE))).abs().max()) < 0.9


def test_the_report_is_json(trained: Path) -> None:
    assert {"config", "data", "curve"} <= set(json.loads((trained / "training.json").read_text()))
