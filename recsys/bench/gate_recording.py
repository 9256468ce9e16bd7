"""Gate scores of a trained model on real requests, recorded as they are served, in one safetensors file.

scores_LRNE   float32, softmax: MoE layer, request, candidate, expert; rows of NaN where a request had fewer
              candidates
metadata      model_version, dataset, requests
"""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recsys.data.dataset import Dataset
from recsys.engine.catalogue import Catalogue
from recsys.engine.runner import Runner
from recsys.errors import DataFileError, InputError
from recsys.model.recommender import Recommender
from recsys.state.items import CatalogueItem
from recsys.wire import RankRequest
from router.gates import RecordedGates
from router.router import Router
from router.shapes import OwnThreshold, RoutingPlan

HISTORY_MOST = 200


class _Listening(Router):
    """Plain top-k that keeps the scores it is given."""

    def __init__(self, layers: int, experts: int) -> None:
        super().__init__("topk", capacity_factor=1.0, layers=layers, experts=experts)
        self.heard: list[Tensor] = []

    def route(
        self, layer: int, scores_TE: Tensor, k: int, bias_E: Tensor, own: OwnThreshold | None = None
    ) -> RoutingPlan:
        self.heard.append(scores_TE.detach().clone())
        return super().route(layer, scores_TE, k, bias_E, own)


def record_gates(
    model_folder: Path, dataset_folder: Path, out: Path, *, requests: int, candidates: int, console: Console
) -> Tensor:
    """Ask a model what it would be asked at the newest events of a data set, and keep its gate scores.

    A request has the history of the event's user before the event, and candidates from retrieval. The scores are
    those that serving sees, before any bias or price.

    Returns:
        scores_LRNE, as written to `out`.

    Raises:
        InputError: no event has a history, or a number is out of its bounds.
    """
    if requests < 1 or candidates < 1:
        raise InputError(f"requests and candidates must be >= 1, not {requests} and {candidates}", field="requests")
    dataset = Dataset.load(dataset_folder)
    model = Recommender.from_pretrained(model_folder)
    runner = Runner(model, candidates=candidates)
    catalogue = Catalogue(_items(dataset), model)
    layers, experts = model.config.moe_layers, model.config.experts
    asked = _newest_requests(dataset, requests)
    if not asked:
        raise InputError(f"{dataset_folder}: no event has an earlier one of the same user")
    scores_LRNE = torch.full((layers, len(asked), candidates, experts), torch.nan, dtype=torch.float32)
    for number, request in enumerate(track(asked, "Gates", console=console, transient=True)):
        listening = _Listening(layers, experts)
        runner.run([request], catalogue, listening, step="calm")
        for layer, scores_TE in enumerate(listening.heard):
            scores_LRNE[layer, number, : len(scores_TE)] = scores_TE
    out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"model_version": model.version, "dataset": dataset.name, "requests": str(len(asked))}
    save_file({"scores_LRNE": scores_LRNE}, out, metadata=facts)
    return scores_LRNE


def load_gates(path: Path, *, layer: int = 0) -> RecordedGates:
    """One layer of a recording, ready to draw from.

    Raises:
        DataFileError: the file is not a recording, or has no such layer.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            scores_LRNE = file.get_tensor("scores_LRNE")
        if not 0 <= layer < len(scores_LRNE):
            raise DataFileError(path, f"layer {layer} is not in 0..{len(scores_LRNE) - 1}")
        return RecordedGates(scores_LRNE[layer])
    except (OSError, SafetensorError, ValueError) as error:
        raise DataFileError(path, f"not a recording of gate scores: {error}") from error


def _items(dataset: Dataset) -> list[CatalogueItem]:
    rows = dataset.items.select("item_id", "title", "categories", "year").iter_rows()
    return [
        CatalogueItem(
            item_id=item,
            title=title,
            ts=0,
            categories=tuple(categories or ()),
            attributes={} if year is None else {"year": year},
        )
        for item, title, categories, year in rows
    ]


def _newest_requests(dataset: Dataset, most: int) -> list[RankRequest]:
    """One request per event, newest events last, each with what its user did before."""
    events = dataset.interactions.select("user_id", "item_id", "kind").rows()
    first = max(0, len(events) - most)
    histories: dict[str, list[tuple[str, str]]] = {}
    asked = []
    for number, (user, item, kind) in enumerate(events):
        past = histories.setdefault(user, [])
        if number >= first and past:
            items, kinds = zip(*past[-HISTORY_MOST:], strict=True)
            asked.append(
                RankRequest(id=str(number), time_left_ms=1e6, k=1, history=tuple(items), history_kinds=tuple(kinds))
            )
        past.append((item, kind))
    return asked
