from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.errors import ModelFolderError
from recsys.model.recommender import Recommender


@pytest.fixture
def folder(model: Recommender, tmp_path: Path) -> Path:
    path = tmp_path / "models" / "m1"
    model.version = "m1"
    model.save_pretrained(path)
    return path


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def test_a_saved_model_comes_back_equal(model: Recommender, folder: Path) -> None:
    loaded = Recommender.from_pretrained(folder)
    assert loaded.version == "m1"
    assert loaded.config == model.config
    assert loaded.vocabulary == model.vocabulary
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_saving_again_replaces_the_folder_and_leaves_nothing_behind(model: Recommender, folder: Path) -> None:
    model.version = "m2"
    model.save_pretrained(folder)
    assert Recommender.from_pretrained(folder).version == "m2"
    assert [path.name for path in folder.parent.iterdir()] == ["m1"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "vocabulary.json"]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="not a folder"):
        Recommender.from_pretrained(tmp_path / "none")


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "model.safetensors"])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelFolderError, match=rf"{name}: missing"):
        Recommender.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1, 2]", b""])
@pytest.mark.parametrize("name", ["config.json", "vocabulary.json"])
def test_a_file_that_is_no_json_map(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match=rf"{name}: .*JSON"):
        Recommender.from_pretrained(folder)


def test_another_format(folder: Path) -> None:
    change_json(folder / "config.json", format_version=99)
    with pytest.raises(ModelFolderError, match=r"config.json: format_version 99"):
        Recommender.from_pretrained(folder)


def test_a_config_out_of_bounds(folder: Path) -> None:
    change_json(folder / "config.json", model={"items": 40, "width": -1})
    with pytest.raises(ModelFolderError, match=r"config.json: width: -1"):
        Recommender.from_pretrained(folder)


def test_a_config_without_a_model(folder: Path) -> None:
    change_json(folder / "config.json", model=None)
    with pytest.raises(ModelFolderError, match="'model'"):
        Recommender.from_pretrained(folder)


def test_a_vocabulary_of_another_model(folder: Path) -> None:
    change_json(folder / "vocabulary.json", items=["a", "b"])
    with pytest.raises(ModelFolderError, match=r"vocabulary.json: 2 items, but config.json states 40"):
        Recommender.from_pretrained(folder)


def test_a_vocabulary_with_a_wrong_field(folder: Path) -> None:
    change_json(folder / "vocabulary.json", items=[1, 2])
    with pytest.raises(ModelFolderError, match=r"vocabulary.json: items"):
        Recommender.from_pretrained(folder)


def test_a_missing_tensor(folder: Path) -> None:
    change_weights(folder / "model.safetensors", lambda weights: weights.pop("encoder.begin_D"))
    with pytest.raises(ModelFolderError, match=r"'encoder.begin_D' is missing"):
        Recommender.from_pretrained(folder)


def test_an_unknown_tensor(folder: Path) -> None:
    change_weights(folder / "model.safetensors", lambda weights: weights.update(extra=torch.ones(2)))
    with pytest.raises(ModelFolderError, match="'extra' is not part"):
        Recommender.from_pretrained(folder)


def test_a_tensor_of_another_shape(folder: Path) -> None:
    change_weights(folder / "model.safetensors", lambda weights: weights.update({"encoder.begin_D": torch.ones(3)}))
    with pytest.raises(ModelFolderError, match=r"shape \(3,\), expected \(16,\)"):
        Recommender.from_pretrained(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder: Path, value: float) -> None:
    change_weights(folder / "model.safetensors", lambda weights: weights["encoder.begin_D"].fill_(value))
    with pytest.raises(ModelFolderError, match=r"'encoder.begin_D' has values that are not finite"):
        Recommender.from_pretrained(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -8])
def test_a_truncated_weights_file(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelFolderError, match="not a complete safetensors file"):
        Recommender.from_pretrained(folder)


def test_config_and_vocabulary_must_fit(make_model: Callable[..., Recommender]) -> None:
    model = make_model()
    with pytest.raises(ValueError, match="items: 39 in the config, 40 in the vocabulary"):
        Recommender(type(model.config)(items=39, categories=3, years=2), model.vocabulary)
