"""One version of the model with all that is made for it: swapped as a whole, between two micro-batches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import torch

from recsys.config import Settings
from recsys.engine.catalogue import Catalogue
from recsys.engine.lanes import Lanes
from recsys.engine.pressure import Effort
from recsys.engine.runner import Runner
from recsys.engine.spare_slots import SpareSlots
from recsys.errors import ModelFolderError
from recsys.model.recommender import Recommender
from recsys.wire import RankRequest
from router.router import Router

FOLDERS_MAX = 200
WARM_UP_RUNS = 3


class Served:
    """A model on its device, and the catalogue, routers, lanes and spare slots that fit it.

    Attributes:
        catalogue: None until the first one is loaded.
        router_type: what routers are made of; a measurement may have its own.

    Raises:
        ModelFolderError: the folder is no model, or a broken one.
    """

    router_type: ClassVar[type[Router]] = Router

    def __init__(self, folder: Path, settings: Settings) -> None:
        device = settings.engine.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._settings = settings
        self.model = Recommender.from_pretrained(folder).to(device)
        self.runner = Runner(self.model, candidates=settings.engine.candidates, graphs_max=settings.engine.graphs_max)
        self.lanes = Lanes(self.model.config.experts)
        self.spares = SpareSlots(self.model.config.experts, settings.router.spare_slots, now_s=time.monotonic())
        self.catalogue: Catalogue | None = None
        self._routers: dict[str, Router] = {}

    @property
    def version(self) -> str:
        """Name of the weights."""
        return self.model.version

    def router(self, policy: str) -> Router:
        """The router of a policy, kept from batch to batch.

        Raises:
            ValueError: an unknown policy.
        """
        if policy not in self._routers:
            config = self.model.config
            self._routers[policy] = self.router_type(
                policy,
                capacity_factor=self._settings.router.capacity_factor,
                layers=config.moe_layers,
                experts=config.experts,
            )
        return self._routers[policy]

    def warm_up(
        self, catalogue: Catalogue, policy: str, efforts: Sequence[Effort], learn: Callable[[int, int, float], None]
    ) -> None:
        """Run batches of all shapes at each effort: the first caller pays for nothing, and step times are known.

        `learn` gets the place of the effort, the requests and the seconds of each run but the first of a shape, which
        pays for allocations. The first effort comes last: of what is kept for a few shapes, its own stays.
        """
        config, most = self.model.config, self._settings.engine.batch_max
        router = self.router_type(policy, capacity_factor=1.5, layers=config.moe_layers, experts=config.experts)
        longest, *others = (tuple(catalogue.item_ids[1 : events + 1]) for events in self.runner.widths)
        for height, now in reversed(list(enumerate(efforts))):
            router.capacity_factor, router.tokens_min = now.capacity_factor, now.tokens_min
            for requests in sorted({min(most, 1 << power) for power in range(most.bit_length() + 1)}):
                for repeat, history in enumerate([longest] * WARM_UP_RUNS + others):
                    batch = [RankRequest(id="", time_left_ms=0, k=10, history=history, exclude_seen=False)] * requests
                    began = time.perf_counter()
                    result = self.runner.run(batch, catalogue, router, step=now.step, candidates=now.candidates)
                    if 0 < repeat < WARM_UP_RUNS:
                        learn(height, requests, time.perf_counter() - began + self.lanes.own_s(result.plans))


def model_versions(settings: Settings) -> dict[str, Path]:
    """Model folders by the version that their `config.json` names: `engine.model_dir` and what is beside it.

    Of two folders with one version the first by name counts, `model_dir` before all.
    """
    own = settings.engine.model_dir
    beside = settings.engine.models_dir or own.parent
    seen = sorted(beside.glob("[!.]*")) if beside.is_dir() else []  # what begins with a dot is being written
    folders = [path for path in seen if path.is_dir()][:FOLDERS_MAX]
    found: dict[str, Path] = {}
    for folder in (own, *folders):
        try:
            version = json.loads((folder / "config.json").read_text(encoding="utf-8"))["version"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no model folder
        if isinstance(version, str):
            found.setdefault(version, folder)
    return found


def folder_of(version: str, settings: Settings) -> Path:
    """Folder of a version.

    Raises:
        ModelFolderError: there is none.
    """
    found = model_versions(settings)
    if version not in found:
        raise ModelFolderError(f"no model folder of version {version!r}, there are {', '.join(sorted(found))}")
    return found[version]
