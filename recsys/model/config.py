"""Hyper-parameters of the model. They are part of its weights: saved in the model folder as `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

GOALS = ("click", "like", "love")  # each is met only where the one before it is
GATES = ("softmax", "self")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of a `Recommender`.

    Attributes:
        items: items with an id embedding of their own (id 0, "not seen in training", comes on top).
        categories: width of the category vector of an item.
        years: number of year buckets (bucket 0, "unknown", comes on top).
        kinds: number of event kinds (kind 0, "unknown", comes on top).
        width: D, width of item and user vectors, a multiple of `encoder_heads` and `ranker_heads`.
        history: most recent events that the encoder reads.
        encoder_layers: transformer blocks.
        encoder_heads: attention heads per block.
        encoder_ages: ages that its attention tells apart, in events, the last one for all older events; 0 = none.
        encoder_gated: gated attention and SwiGLU in the encoder, see `EncoderBlock`.
        ranker_heads: heads of the attention of a candidate over the history.
        ranker_ages: ages that this attention tells apart, in events, with the last one for all older events; 0 = none.
        moe_layers: Mixture-of-Experts blocks of the ranker.
        experts: E, routed experts per block.
        shared_expert: one more expert that runs on every token.
        expert_hidden: H, hidden width of an expert, the shared one included.
        k: experts per token; with gate `self` the mean that training holds, at most `slots` for any token.
        gate: how experts are chosen: by a `softmax` over a learnt gate, or by their own activation (`self`, see
            `SelfExperts`), which wants a shared expert for tokens that no other takes.
        gate_rank: directions by which an expert decides; gate `self` alone.
        goals: task heads; the first is `click`, which retrieval is trained for.
        dropout: share of activations dropped in training.
        id_dropout: share of items whose id embedding is dropped in a training step, so that content alone counts.
        gate_noise: standard deviation of what is added to gate logits in training.
        expert_dropout: share of (token, expert) pairs that routing avoids in training, a forced redirect.
    """

    items: int
    categories: int = 0
    years: int = 0
    kinds: int = 5
    width: int = 64
    history: int = 50
    encoder_layers: int = 2
    encoder_heads: int = 2
    encoder_ages: int = 0
    encoder_gated: bool = False
    ranker_heads: int = 2
    ranker_ages: int = 0
    moe_layers: int = 2
    experts: int = 8
    shared_expert: bool = True
    expert_hidden: int = 64
    k: int = 2
    gate: str = "softmax"
    gate_rank: int = 16
    goals: tuple[str, ...] = GOALS[:2]
    dropout: float = 0.2
    id_dropout: float = 0.05
    gate_noise: float = 0.3
    expert_dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check every field against its bound.

        Raises:
            ValueError: naming the field, its bound and what was found.
        """
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name}: {value!r} is not a whole number from {low} to {high}")
        for name, high in (("dropout", 1), ("id_dropout", 1), ("expert_dropout", 1), ("gate_noise", 100)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < high:
                raise ValueError(f"{name}: {value!r} is not a number from 0 to below {high}")
        for name in ("encoder_gated", "shared_expert"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name}: {getattr(self, name)!r} is neither true nor false")
        if self.gate not in GATES:
            raise ValueError(f"gate: {self.gate!r} is not one of {', '.join(GATES)}")
        if self.gate == "self" and not self.shared_expert:
            raise ValueError("gate: 'self' needs shared_expert, for tokens that no other expert takes")
        if self.k > self.experts:
            raise ValueError(f"k: {self.k} experts per token, but there are only {self.experts} (experts)")
        for name in ("encoder_heads", "ranker_heads"):
            if self.width % getattr(self, name):
                raise ValueError(f"width: {self.width} is not a multiple of {getattr(self, name)} ({name})")
        if self.goals[:1] != GOALS[:1] or len(set(self.goals)) != len(self.goals) or not set(self.goals) <= set(GOALS):
            raise ValueError(f"goals: {self.goals!r} is not a choice of distinct names from {GOALS}, click first")

    @property
    def slots(self) -> int:
        """Most experts per token: k, and twice as many where experts decide by themselves."""
        return self.k if self.gate == "softmax" else min(2 * self.k, self.experts)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back to an equal config. A softmax gate has no fields of its own."""
        values = asdict(self) | {"goals": list(self.goals)}
        return {name: value for name, value in values.items() if self.gate == "self" or name not in _SELF_FIELDS}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> ModelConfig:
        """The config that `to_json` described.

        Raises:
            ValueError: naming a field that is unknown, missing or out of its bounds.
        """
        unknown = sorted(set(values) - {field.name for field in fields(ModelConfig)})
        if unknown:
            raise ValueError(f"{unknown[0]}: not a field of the model's config")
        if "items" not in values:
            raise ValueError("items: missing")
        goals = values.get("goals", GOALS[:2])
        if not isinstance(goals, list | tuple) or not all(isinstance(goal, str) for goal in goals):
            raise ValueError(f"goals: {goals!r} is not a list of names")
        return ModelConfig(**{**values, "goals": tuple(goals)})


_SELF_FIELDS = ("gate", "gate_rank")
_BOUNDS: dict[str, tuple[int, int]] = {
    "items": (0, 10_000_000),
    "categories": (0, 10_000),
    "years": (0, 1_000),
    "kinds": (1, 100),
    "width": (4, 4_096),
    "history": (1, 2_000),
    "encoder_layers": (1, 64),
    "encoder_heads": (1, 64),
    "encoder_ages": (0, 2_000),
    "ranker_heads": (1, 64),
    "ranker_ages": (0, 2_000),
    "moe_layers": (1, 16),
    "experts": (1, 1_024),
    "expert_hidden": (4, 16_384),
    "k": (1, 64),
    "gate_rank": (1, 1_024),
}
