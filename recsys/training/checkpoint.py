"""Where a run stands after an epoch, on disk: tensors in safetensors, the rest in JSON. No pickle."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recsys.errors import ModelFolderError

FORMAT_VERSION = 2


@dataclass(slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        phase: "retrieval", "ranking" or "done".
        epoch: epochs of this phase that are complete.
        step: optimizer steps of this phase.
        best: best validation NDCG of this phase, -1 before the first check.
        checks_without_gain: since the best one.
        curve: one entry per epoch, of both phases.
    """

    phase: str = "retrieval"
    epoch: int = 0
    step: int = 0
    best: float = -1.0
    checks_without_gain: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)


def save_checkpoint(
    path: Path,
    model: nn.Module,
    best: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    key: str,
    average: dict[str, Tensor],
) -> None:
    """Write one file that replaces the last one at once. `key` says which run may go on from it."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    for n, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{n}.{name}": tensor for name, tensor in values.items()}
    head = {"format_version": str(FORMAT_VERSION), "key": key, "progress": json.dumps(asdict(progress))}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, draft, metadata=head)
    os.replace(draft, path)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run goes on from, beside the model's newest weights."""

    progress: Progress
    best: dict[str, Tensor]
    average: dict[str, Tensor]
    moments: dict[int, dict[str, Tensor]]


def load_checkpoint(path: Path, model: nn.Module, key: str) -> Checkpoint | None:
    """Load the model's newest weights and return the rest; None without a file.

    Raises:
        ModelFolderError: the file is damaged, of another format or of another run.
    """
    if not path.is_file():
        return None
    try:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            head = file.metadata() or {}
        tensors = load_file(path)
    except Exception as error:
        raise ModelFolderError(f"{path}: not a complete checkpoint: {error}") from error
    if head.get("format_version") != str(FORMAT_VERSION):
        raise ModelFolderError(
            f"{path}: format_version {head.get('format_version')!r}, this code reads {FORMAT_VERSION}"
        )
    if head["key"] != key:
        raise ModelFolderError(f"{path}: from a run with another config or other data; remove it to start anew")
    model.load_state_dict(_part(tensors, "model."))
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _part(tensors, "optimizer.").items():
        number, _, value = name.partition(".")
        optimizer.setdefault(int(number), {})[value] = tensor
    progress = Progress(**json.loads(head["progress"]))
    return Checkpoint(progress, _part(tensors, "best."), _part(tensors, "average."), optimizer)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
