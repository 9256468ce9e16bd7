"""Everything that decides a training run, as one value: a preset, a JSON file, or both put together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from recsys.errors import DataFileError, InputError
from recsys.model.config import GOALS, ModelConfig

PROTOCOLS = ("leave_one_out", "time", "none")
PRECISIONS = ("float32", "bfloat16")
BALANCES = ("bias", "loss", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How a model is trained.

    Training has two phases: first the encoder and the item table learn retrieval, then the ranker learns to order
    what retrieval finds. Each phase keeps its best weights (the newest of those within a percent), and ends when its
    validation NDCG has not risen for `patience` checks.

    Attributes:
        model: shape of the model; its vocabulary sizes are set from the data.
        protocol: which events stay out of training for a later `evaluate`: each user's last one (`leave_one_out`),
            the last `test_share` of all in time (`time`), or `none`, the choice before going live.
        test_share: see `protocol`.
        validation_users: most users whose held-out event stops training early.
        retrieval_epochs: most passes over the users in the first phase.
        ranking_epochs: most passes in the second.
        batch: users per step.
        learning_rate: peak of Adam's step size, after `warmup_steps`; falls to a tenth of it along a cosine.
        warmup_steps: steps of linear growth.
        weight_average: share of the old average of the weights that a step keeps; the average is what is validated and
            kept. 0 takes the newest weights.
        weight_decay: decoupled, on matrices only.
        gradient_norm: gradients are scaled down to this norm.
        newest_share: share of users whose newest events are read in an epoch; of the others a random window is.
        warm_start_window: items had within so many events of each other begin with similar vectors; 0 turns it off.
        full_softmax_items: largest catalogue with an exact softmax; above it `sampled_negatives` stand for the rest.
        sampled_negatives: items of the sampled softmax, one draw per step.
        positions: positions of each user that the ranker learns from in one step.
        hard_negatives: candidates per position drawn from the best `hard_from` of retrieval.
        hard_from: see `hard_negatives`; the number of candidates in serving.
        random_negatives: candidates per position drawn by popularity.
        ranking_batch: users per step in the second phase.
        ranking_to_encoder: let the ranking loss change encoder and item table too.
        balance: what keeps experts equally busy: a `bias` on the choice, without a gradient (arXiv 2408.15664), an
            auxiliary `loss` (arXiv 2101.03961), or `none`.
        balance_rate: step of the bias.
        balance_weight: of the auxiliary loss.
        balance_mix: with gate `self`, whose loss counts unless balance is `none`: the part of experts in it, the rest
            being that of tokens (arXiv 2604.00801).
        goal_weights: weight of each goal in the ranking loss, in the order of `model.goals`.
        patience: checks without a better validation NDCG until a phase ends.
        check_every: epochs between checks.
        precision: of the softmax over the catalogue.
        seed: of everything random; a seed repeats a run exactly on the same machine and number of threads.
    """

    model: ModelConfig = field(default_factory=lambda: ModelConfig(items=0))
    protocol: str = "leave_one_out"
    test_share: float = 0.1
    validation_users: int = 512
    retrieval_epochs: int = 40
    ranking_epochs: int = 10
    batch: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_average: float = 0.0
    weight_decay: float = 0.0
    gradient_norm: float = 5.0
    newest_share: float = 0.5
    warm_start_window: int = 3
    full_softmax_items: int = 20_000
    sampled_negatives: int = 2_048
    positions: int = 4
    hard_negatives: int = 32
    hard_from: int = 200
    random_negatives: int = 16
    ranking_batch: int = 64
    ranking_to_encoder: bool = False
    balance: str = "bias"
    balance_rate: float = 1e-2
    balance_weight: float = 1e-2
    balance_mix: float = 0.5
    goal_weights: tuple[float, ...] = (1.0,) * len(GOALS)
    patience: int = 5
    check_every: int = 1
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field against its bound.

        Raises:
            InputError: naming the field, its bound and what was found.
        """
        for name, choices in (("protocol", PROTOCOLS), ("precision", PRECISIONS), ("balance", BALANCES)):
            if getattr(self, name) not in choices:
                raise InputError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(choices)}", field=name)
        for name, lowest in _LOWEST_INT.items():
            value = getattr(self, name)
            if type(value) is not int or not lowest <= value <= 10**9:
                raise InputError(f"{name}: {value!r} is not a whole number from {lowest}", field=name)
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise InputError(f"{name}: {value!r} is not a number from {low} to {high}", field=name)
        weights = self.goal_weights
        if len(weights) < len(self.model.goals) or not all(type(w) in (int, float) and 0 <= w < 1e6 for w in weights):
            raise InputError(f"goal_weights: {weights!r} is not a number >= 0 for each goal", field="goal_weights")
        if self.hard_negatives > self.hard_from:
            raise InputError(f"hard_negatives: {self.hard_negatives} exceeds hard_from ({self.hard_from})")

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back to an equal config."""
        values = asdict(self) | {"model": self.model.to_json(), "goal_weights": list(self.goal_weights)}
        if self.model.gate == "softmax":
            del values["balance_mix"]
        return values

    @staticmethod
    def from_json(values: Mapping[str, Any], base: TrainConfig | None = None) -> TrainConfig:
        """`base` with the fields that `values` names; `model` may name some of its fields too.

        Raises:
            InputError: naming a field that is unknown or out of its bounds.
        """
        base = base or TrainConfig()
        unknown = sorted(set(values) - {field.name for field in fields(TrainConfig)})
        if unknown:
            raise InputError(f"{unknown[0]}: not a field of the training config", field=unknown[0])
        changed = dict(values)
        if "model" in changed:
            if not isinstance(changed["model"], Mapping):
                raise InputError("model: not a map", field="model")
            try:
                changed["model"] = ModelConfig.from_json(base.model.to_json() | dict(changed["model"]))
            except ValueError as error:
                raise InputError(f"model.{error}", field="model") from error
        if isinstance(changed.get("goal_weights"), list):
            changed["goal_weights"] = tuple(changed["goal_weights"])
        return replace(base, **changed)

    @staticmethod
    def from_file(path: Path | str) -> TrainConfig:
        """Read a JSON map of fields; `"preset"` names the one that it starts from.

        Raises:
            DataFileError: the file is missing, not JSON, or a field is wrong.
        """
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise DataFileError(path, "a JSON map is expected")
            base = preset(values.pop("preset")) if "preset" in values else None
            return TrainConfig.from_json(values, base)
        except FileNotFoundError as error:
            raise DataFileError(path, "missing") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataFileError(path, f"not JSON: {error}") from error
        except DataFileError:
            raise
        except InputError as error:
            raise DataFileError(path, str(error), column=error.field) from error


_LOWEST_INT = {
    "validation_users": 1,
    "warm_start_window": 0,
    "retrieval_epochs": 0,
    "ranking_epochs": 0,
    "batch": 1,
    "warmup_steps": 0,
    "full_softmax_items": 0,
    "sampled_negatives": 1,
    "positions": 1,
    "hard_negatives": 0,
    "hard_from": 1,
    "random_negatives": 1,
    "ranking_batch": 1,
    "patience": 1,
    "check_every": 1,
    "seed": 0,
}
_RANGES = {
    "test_share": (0.001, 0.9),
    "learning_rate": (1e-7, 1.0),
    "weight_average": (0.0, 0.99999),
    "weight_decay": (0.0, 1.0),
    "gradient_norm": (1e-3, 1e6),
    "newest_share": (0.0, 1.0),
    "balance_rate": (0.0, 1.0),
    "balance_weight": (0.0, 100.0),
    "balance_mix": (0.0, 1.0),
}

PRESETS: dict[str, TrainConfig] = {
    "demo": TrainConfig(
        model=ModelConfig(items=0, width=64, history=50, expert_hidden=64),
        retrieval_epochs=10,
        ranking_epochs=3,
        batch=64,
        learning_rate=2e-3,
        warmup_steps=30,
        positions=2,
        patience=4,
    ),
    "ml-100k": TrainConfig(
        model=ModelConfig(items=0, width=64, history=100, expert_hidden=64, dropout=0.3),
        protocol="time",
        retrieval_epochs=20,
        ranking_epochs=2,
        batch=32,
        warmup_steps=50,
        patience=8,
    ),
    "ml-1m": TrainConfig(
        model=ModelConfig(
            items=0,
            width=128,
            history=200,
            encoder_layers=3,
            encoder_heads=1,
            encoder_ages=64,
            ranker_ages=64,
            expert_hidden=128,
            dropout=0.2,
            id_dropout=0.0,
        ),
        retrieval_epochs=24,
        ranking_epochs=4,
        batch=32,
        ranking_batch=32,
        weight_average=0.998,
        warm_start_window=0,
        positions=8,
        patience=8,
        check_every=4,
        precision="bfloat16",
    ),
}


def preset(name: str) -> TrainConfig:
    """The preset of that name.

    Raises:
        InputError: listing the names there are.
    """
    if name not in PRESETS:
        raise InputError(f"preset: {name!r} is not one of {', '.join(PRESETS)}", field="preset")
    return PRESETS[name]
