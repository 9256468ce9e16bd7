"""From histories to scores in one go, at shapes that are known beforehand and with nothing read back on the way.

`Recommender.encode` and `rank` leave two decisions to the host: how many candidates each request has, and which of
them are padding. Here the device makes both, so that one CUDA graph holds the step, one copy brings in what it needs
and one takes out what it found. Letters as in `router.shapes`; in `prices_LE` L counts MoE layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from recsys.model.config import ModelConfig
from recsys.model.recommender import Recommender
from router.shapes import RoutingPlan
from router.static import StaticRouter

PLAN_FIELDS = tuple(name for name in RoutingPlan.__dataclass_fields__ if name != "capacity_E")  # the host knows that


class Shape(NamedTuple):
    """What a step is laid out for: requests, events of a history, candidates of a request, rows of the item table."""

    requests: int
    history: int
    candidates: int
    items: int


class Field(NamedTuple):
    """One tensor of a step."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Layout:
    """Where the tensors of a step are in one piece of memory: the widest types first, so that all stand aligned."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self.fields = dict(sorted(fields.items(), key=lambda item: -item[1].dtype.itemsize))
        self.bytes = sum(_bytes(field) for field in self.fields.values())

    def views(self, memory: Tensor) -> dict[str, Tensor]:
        """The tensors in `memory`, a uint8 tensor of `bytes`."""
        parts = memory.split([_bytes(field) for field in self.fields.values()])
        return {
            name: part.view(field.dtype).view(field.shape)
            for (name, field), part in zip(self.fields.items(), parts, strict=True)
        }

    def pack(self, values: Mapping[str, Tensor], memory: Tensor) -> None:
        """Write all tensors into `memory` at once.

        Raises:
            ValueError: a tensor of another shape or type.
        """
        for name, (shape, dtype) in self.fields.items():
            if values[name].shape != shape or values[name].dtype != dtype:
                found = f"{values[name].dtype} {tuple(values[name].shape)}"
                raise ValueError(f"{name} must be {dtype} {shape}, not {found}")
        torch.cat([values[name].reshape(-1).view(torch.uint8) for name in self.fields], out=memory)


def _bytes(field: Field) -> int:
    return torch.Size(field.shape).numel() * field.dtype.itemsize


def given(shape: Shape, config: ModelConfig) -> Layout:
    """What a step is given.

    history_BL, kinds_BL: as `Recommender.encode` takes them with `compact`.
    named_BN: candidates that the caller names, at the front, for requests without retrieval.
    width_B: candidates to retrieve; 0 where they are named and in padding.
    allowed_BI: rows of the table that may be retrieved.
    capacity_E: slots per expert. phase: moves from step to step.
    """
    (B, L, N, I), integer = shape, torch.int64
    return Layout(
        {
            "history_BL": Field((B, L), integer),
            "kinds_BL": Field((B, L), integer),
            "named_BN": Field((B, N), integer),
            "width_B": Field((B,), integer),
            "allowed_BI": Field((B, I), torch.bool),
            "capacity_E": Field((config.experts,), integer),
            "phase": Field((), integer),
        }
    )


def found(shape: Shape, config: ModelConfig) -> Layout:
    """What a step finds: candidates_BN (0 = none), logits_BNG, and each layer's plan over all B * N candidates."""
    (B, _, N, _), E, K = shape, config.experts, config.k
    sizes = {"TK": (B * N, K), "E": (E,)}
    types = {"gates_TK": torch.float32, "prices_E": torch.float32, "redirected_TK": torch.bool}
    scalars = {"score_kept", "certified_gap"}
    fields = {
        "candidates_BN": Field((B, N), torch.int64),
        "logits_BNG": Field((B, N, len(config.goals)), torch.float32),
    }
    for layer in range(config.moe_layers):
        for name in PLAN_FIELDS:
            size = () if name in scalars else sizes[name.rsplit("_", 1)[1]]
            fields[f"{name}/{layer}"] = Field(size, torch.float32 if name in scalars else types.get(name, torch.int64))
    return Layout(fields)


def step(
    model: Recommender, table_ID: Tensor, policy: str, values: Mapping[str, Tensor], prices_LE: Tensor
) -> dict[str, Tensor]:
    """Encode, retrieve and rank what `given` names; returns what `found` names.

    Args:
        table_ID: item vectors. A row that no request is allowed may hold anything finite.
        policy: one that `router.static.serves`.
        prices_LE: where prices start, and where those of this batch are left.
    """
    encoded = model.encode(values["history_BL"], values["kinds_BL"], table_ID, compact=True)
    named_BN = values["named_BN"]
    scores_BI = model.retrieval_scores(encoded.user_BD, table_ID).masked_fill(
        values["allowed_BI"].logical_not(), -torch.inf
    )
    best_BN, rows_BN = scores_BI.topk(named_BN.shape[1], dim=1)
    places_N = torch.arange(named_BN.shape[1], device=named_BN.device)
    retrieved_BN = best_BN.isfinite() & (places_N < values["width_B"][:, None])
    candidates_BN = rows_BN.masked_fill(retrieved_BN.logical_not(), 0) + named_BN  # a row has one or the other
    router = StaticRouter(
        policy,
        capacity_E=values["capacity_E"],
        real_T=candidates_BN.reshape(-1) != 0,
        phase=values["phase"],
        prices_LE=prices_LE,
    )
    ranked = model.rank(encoded, candidates_BN, table_ID, router)
    answer = {"candidates_BN": candidates_BN, "logits_BNG": ranked.logits_BNG}
    for layer, plan in enumerate(ranked.plans):
        answer |= {f"{name}/{layer}": getattr(plan, name) for name in PLAN_FIELDS}
    return answer


def real_plans(values: Mapping[str, Tensor], capacity_E: Tensor, real_T: Tensor, layers: int) -> list[RoutingPlan]:
    """The plans that a step found, without the padding."""
    tokens, plans = int(real_T.sum()), []
    real = slice(tokens) if bool(real_T[:tokens].all()) else real_T  # mostly all padding is at the end: no copies
    for layer in range(layers):
        parts = {name: values[f"{name}/{layer}"] for name in PLAN_FIELDS}
        parts = {name: part[real] if name.endswith("_TK") else part for name, part in parts.items()}
        plans.append(RoutingPlan(**parts, capacity_E=capacity_E))
    return plans
