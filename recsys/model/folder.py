"""A model on disk: a folder with `config.json`, `vocabulary.json` and `model.safetensors`, checked when it is read."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recsys.errors import ModelFolderError
from recsys.model.config import ModelConfig
from recsys.model.vocabulary import Vocabulary

FORMAT_VERSION = 1
CONFIG = "config.json"
VOCABULARY = "vocabulary.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The checked content of a model folder; `load_into` checks the tensors against a model."""

    path: Path
    config: ModelConfig
    vocabulary: Vocabulary
    version: str
    weights: Mapping[str, Tensor]

    def load_into(self, model: nn.Module) -> None:
        """Copy the weights into a model built from `config`.

        Raises:
            ModelFolderError: for a tensor that is missing, unknown, of another shape or not finite.
        """
        where, expected = self.path / WEIGHTS, model.state_dict()
        for name in sorted(set(expected) - set(self.weights)):
            raise ModelFolderError(f"{where}: tensor {name!r} is missing")
        for name in sorted(set(self.weights) - set(expected)):
            raise ModelFolderError(f"{where}: tensor {name!r} is not part of the model that {CONFIG} describes")
        for name, tensor in self.weights.items():
            if tensor.shape != expected[name].shape:
                found, wanted = tuple(tensor.shape), tuple(expected[name].shape)
                raise ModelFolderError(f"{where}: tensor {name!r} has shape {found}, expected {wanted}")
            if not torch.isfinite(tensor).all():
                raise ModelFolderError(f"{where}: tensor {name!r} has values that are not finite")
        model.load_state_dict(self.weights)


def write_model_folder(
    folder: Path, config: ModelConfig, vocabulary: Vocabulary, version: str, weights: Mapping[str, Tensor]
) -> None:
    """Write a model folder beside its final place, then move it there, so that a reader never sees half of one."""
    from safetensors.torch import save_file  # a model that is no file needs no reader of files

    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        draft.chmod(0o755)
        head = {"format_version": FORMAT_VERSION, "version": version, "model": config.to_json()}
        (draft / CONFIG).write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")
        text = json.dumps(vocabulary.to_json(), ensure_ascii=False) + "\n"
        (draft / VOCABULARY).write_text(text, encoding="utf-8")
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, draft / WEIGHTS)
        _replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_model_folder(folder: Path) -> ModelFolder:
    """Read and check a model folder.

    Raises:
        ModelFolderError: naming the file and what is wrong with it.
    """
    if not folder.is_dir():
        raise ModelFolderError(f"{folder}: not a folder; `recsys train` writes one")
    head = _read_json(folder / CONFIG)
    if head.get("format_version") != FORMAT_VERSION:
        found = head.get("format_version")
        raise ModelFolderError(f"{folder / CONFIG}: format_version {found!r}, this code reads {FORMAT_VERSION}")
    if not isinstance(head.get("model"), dict) or not isinstance(head.get("version"), str):
        raise ModelFolderError(f"{folder / CONFIG}: needs 'version', a text, and 'model', a map")
    try:
        config = ModelConfig.from_json(head["model"])
    except ValueError as error:
        raise ModelFolderError(f"{folder / CONFIG}: {error}") from error
    try:
        vocabulary = Vocabulary.from_json(_read_json(folder / VOCABULARY))
    except ValueError as error:
        raise ModelFolderError(f"{folder / VOCABULARY}: {error}") from error
    _check_sizes(folder, config, vocabulary)
    return ModelFolder(folder, config, vocabulary, head["version"], _read_weights(folder / WEIGHTS))


def _check_sizes(folder: Path, config: ModelConfig, vocabulary: Vocabulary) -> None:
    for name, size in vocabulary.sizes().items():
        if getattr(config, name) != size:
            stated = getattr(config, name)
            raise ModelFolderError(f"{folder / VOCABULARY}: {size} {name}, but {CONFIG} states {stated}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFolderError(f"{path}: missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelFolderError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelFolderError(f"{path}: a JSON map is expected, found a {type(values).__name__}")
    return values


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ModelFolderError(f"{path}: missing") from error
    except SafetensorError as error:
        raise ModelFolderError(f"{path}: not a complete safetensors file: {error}") from error


def _replace(draft: Path, folder: Path) -> None:
    """Move `draft` to `folder`, keeping the old folder until the new one is there."""
    if not folder.exists():
        os.rename(draft, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    os.rename(folder, old / "old")
    os.rename(draft, folder)
    shutil.rmtree(old)
