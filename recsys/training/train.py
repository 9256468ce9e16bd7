"""Fit a model to a data set folder and write a model folder that an engine can load."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)
from torch import Tensor

from recsys.data.dataset import Dataset
from recsys.errors import InputError
from recsys.model.config import ModelConfig
from recsys.model.recommender import Recommender
from recsys.training.average import WeightAverage
from recsys.training.checkpoint import Checkpoint, Progress, load_checkpoint, save_checkpoint
from recsys.training.config import TrainConfig
from recsys.training.examples import Catalogue, Sequences, TrainingBatch, build_vocabulary, training_batches
from recsys.training.metrics import ndcg
from recsys.training.protocol import build_cases, split
from recsys.training.scoring import model_ranks
from recsys.training.self_balance import settle_density
from recsys.training.steps import Steps
from recsys.training.warm_start import item_vectors
from router.router import Router

CHECKPOINT = "checkpoint.safetensors"
REPORT = "training.json"
TOLERANCE = 0.01  # share of the best NDCG that later weights may lack: less is luck among a few hundred events
_PHASES = ("retrieval", "ranking")


def train(
    dataset_folder: Path | str,
    out: Path | str,
    config: TrainConfig,
    *,
    resume: bool = True,
    encoder_from: Path | str | None = None,
    console: Console | None = None,
    on_epoch: Callable[[Progress], None] | None = None,
) -> Recommender:
    """Train, show progress, and write the best model to `out`, with the config and the curve in `training.json`.

    An interrupted run goes on from its last complete epoch, and ends with the same weights as an uninterrupted one.

    Args:
        dataset_folder: written by `recsys import` or `recsys world`.
        out: model folder to write; the checkpoint lives beside it, in `<out>.checkpoint/`, until the run is complete.
        config: everything else.
        resume: go on from a checkpoint of the same config and data, if there is one.
        encoder_from: model folder trained on the same data, whose encoder and items are taken; only the ranker is
            trained then.
        console: where progress is shown.
        on_epoch: called after each epoch, when its checkpoint is written.

    Raises:
        DataFileError: the data set cannot be read.
        InputError: it holds too little to train on, the checkpoint is of another run, or `encoder_from` is a model of
            another shape or of other data.
    """
    with torch.random.fork_rng(devices=[]):
        run = _Run(Path(dataset_folder), Path(out), config, None if encoder_from is None else Path(encoder_from))
        return run.go(resume, console or Console(stderr=True), on_epoch)


class _Run:
    """One training run."""

    def __init__(self, dataset_folder: Path, out: Path, config: TrainConfig, encoder_from: Path | None = None) -> None:
        dataset = Dataset.load(dataset_folder)
        parts = split(dataset.interactions, config)
        vocabulary = build_vocabulary(parts.train, dataset.items)
        if not vocabulary.items:
            raise InputError(f"{dataset_folder}: nothing to train on", field="interactions")
        model_config = ModelConfig.from_json(config.model.to_json() | vocabulary.sizes())
        catalogue = Catalogue.build(vocabulary.items, dataset.items, vocabulary)
        self.out = out
        self.config = config
        self.sequences = Sequences.build(parts.train, catalogue, vocabulary)
        self.validation = build_cases(
            parts.train, parts.validation, catalogue, vocabulary, most=config.validation_users, seed=config.seed
        )
        torch.manual_seed(config.seed)
        self.data = digest(self.sequences)
        donor = None if encoder_from is None else Recommender.from_pretrained(encoder_from)
        origin = "" if donor is None else donor.version
        described = f"{json.dumps(config.to_json(), sort_keys=True)} {self.data} {origin}"
        self.key = hashlib.sha256(described.encode()).hexdigest()
        self.model = Recommender(model_config, vocabulary, version=self.key[:12])
        self.first_phase = "retrieval" if donor is None else "ranking"
        if donor is not None:
            _take_encoder(self.model, donor)
        elif config.warm_start_window:
            rows, width = self.model.item_ids.weight.shape
            with torch.no_grad():
                self.model.item_ids.weight += item_vectors(self.sequences, rows, width, config.warm_start_window)
        self.catalogue = catalogue
        self.steps = Steps.over(self.sequences, self.model, config, catalogue)

    def go(self, resume: bool, console: Console, on_epoch: Callable[[Progress], None] | None) -> Recommender:
        """Both phases, from the start or from where the checkpoint stands."""
        path = self.out.with_name(self.out.name + ".checkpoint") / CHECKPOINT
        found = load_checkpoint(path, self.model, self.key) if resume else None
        if found is None:
            found = Checkpoint(Progress(phase=self.first_phase), copy.deepcopy(self.model.state_dict()), {}, {})
        progress, best, average, moments = found.progress, found.best, found.average, found.moments
        for phase in _PHASES[_PHASES.index(progress.phase) :]:
            if progress.phase != phase:
                progress = Progress(phase=phase, curve=progress.curve)
            optimizer = self._optimizer(phase, moments)
            if phase == "ranking" and progress.epoch == 0:
                self.steps.calibrate(next(iter(self._batches(phase, np.random.default_rng(self.config.seed)))))
            self.average = WeightAverage(self.model, self.config.weight_average)
            self.average.load(average)
            moments, average = {}, {}
            while progress.epoch < self._epochs(phase) and progress.checks_without_gain < self.config.patience:
                best = self._epoch(progress, best, optimizer, console)
                save_checkpoint(path, self.model, best, optimizer, progress, self.key, self.average.state())
                if on_epoch:
                    on_epoch(progress)
            self.model.load_state_dict(best)
        self.model.eval()
        settle_density(self.model, self.catalogue, self.validation, self.config.hard_from)
        self.model.save_pretrained(self.out)
        report = {"config": self.config.to_json(), "data": self.data, "curve": progress.curve}
        (self.out / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        path.unlink(missing_ok=True)
        path.parent.rmdir()
        return self.model

    def _epoch(
        self, progress: Progress, best: dict[str, Tensor], optimizer: torch.optim.Optimizer, console: Console
    ) -> dict[str, Tensor]:
        """One pass over the users and, when it is time, a check; returns the best weights so far."""
        seed = [self.config.seed, _PHASES.index(progress.phase), progress.epoch]
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        began, events, losses = time.perf_counter(), 0, list[float]()
        load_LE = torch.zeros(self.model.config.moe_layers, self.model.config.experts, dtype=torch.float64)
        batches = list(self._batches(progress.phase, np.random.default_rng(seed)))
        title = f"{progress.phase} {progress.epoch + 1}/{self._epochs(progress.phase)}"
        with _bar(console) as bar:
            task = bar.add_task(title, total=len(batches), note=_note(progress))
            for batch in batches:
                self._set_rate(progress, optimizer, len(batches))
                loss, load = self._step(progress.phase, batch, optimizer)
                losses.append(loss)
                load_LE += load
                events += int((batch.targets_BL != 0).sum())
                progress.step += 1
                self.average.update(progress.step)
                bar.update(task, advance=1, note=f"loss {np.mean(losses):.4f}  {_note(progress)}")
        progress.epoch += 1
        entry = {
            "phase": progress.phase,
            "epoch": progress.epoch,
            "loss": round(float(np.mean(losses)), 5) if losses else None,
            "events_per_s": round(events / (time.perf_counter() - began)),
        }
        if progress.phase == "ranking":
            entry["load_max_over_mean"] = [round(float(load.max() / load.mean()), 3) for load in load_LE]
        if progress.epoch % self.config.check_every == 0 or progress.epoch == self._epochs(progress.phase):
            best = self._check(progress, best, entry)
        entry["seconds"] = round(time.perf_counter() - began, 2)
        progress.curve.append(entry)
        console.print("  ".join(f"{name} {value}" for name, value in entry.items()), highlight=False, soft_wrap=True)
        return best

    def _check(self, progress: Progress, best: dict[str, Tensor], entry: dict[str, object]) -> dict[str, Tensor]:
        """Validation of what this phase trains; without validation events the newest weights are the best.

        NDCG@10 is shown, NDCG without a cut decides: it uses every case, so that it is less a matter of luck. Of
        weights that are as good but for luck the newest are kept: they have seen smaller steps, and learnt the goals
        that the check does not see.
        """
        with self.average.in_place():
            return self._check_average(progress, best, entry)

    def _check_average(
        self, progress: Progress, best: dict[str, Tensor], entry: dict[str, object]
    ) -> dict[str, Tensor]:
        if not len(self.validation):
            return copy.deepcopy(self.model.state_dict())
        ranking = progress.phase == "ranking"
        if ranking and progress.best < 0:  # shown, no bar: an untrained ranker has no goals but one
            self._validation(None, entry, "retrieval_ndcg_10")
        value = self._validation(self.steps.router if ranking else None, entry, "validation_ndcg_10")
        progress.checks_without_gain += 1
        kept = value > progress.best * (1 - TOLERANCE)
        if value > progress.best:
            progress.best, progress.checks_without_gain = value, 0
        return copy.deepcopy(self.model.state_dict()) if kept else best

    def _validation(self, router: Router | None, entry: dict[str, object], name: str) -> float:
        """NDCG without a cut; NDCG@10 goes into the entry."""
        ranks = model_ranks(self.model, self.catalogue, self.validation, router, self.config.hard_from).served
        entry[name] = round(ndcg(ranks), 5)
        return ndcg(ranks.clamp(max=self.config.hard_from + 1), None)  # serving knows no rank beyond its candidates

    def _step(self, phase: str, batch: TrainingBatch, optimizer: torch.optim.Optimizer) -> tuple[float, Tensor | float]:
        """Loss of the step, and with it the load of each expert of each block."""
        optimizer.zero_grad(set_to_none=True)
        self.model.train()
        loads: Tensor | float = 0.0
        if phase == "retrieval":
            loss = self.steps.retrieval(batch)
        else:
            loss, plans = self.steps.ranking(batch)
            self.steps.balance(plans)
            loads = torch.stack([plan.load_E for plan in plans]).double()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.config.gradient_norm)
        optimizer.step()
        return float(loss.detach()), loads

    def _batches(self, phase: str, random: np.random.Generator) -> Iterable[TrainingBatch]:
        return training_batches(
            self.sequences,
            batch=self.config.batch if phase == "retrieval" else self.config.ranking_batch,
            history=self.model.config.history,
            newest_share=self.config.newest_share,
            random=random,
        )

    def _optimizer(self, phase: str, moments: dict[int, dict[str, Tensor]]) -> torch.optim.Optimizer:
        ranker = {id(parameter) for parameter in self.model.ranker.parameters()}
        everything = list(self.model.parameters())
        if phase == "retrieval":
            trained = [parameter for parameter in everything if id(parameter) not in ranker]
        else:
            trained = everything if self.config.ranking_to_encoder else list(self.model.ranker.parameters())
        optimizer = torch.optim.AdamW(
            trained, lr=self.config.learning_rate, betas=(0.9, 0.98), weight_decay=self.config.weight_decay
        )
        if moments:
            optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        return optimizer

    def _set_rate(self, progress: Progress, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> None:
        """Linear warm-up, then a cosine down to a tenth over the most epochs of the phase."""
        warm = min(1.0, (progress.step + 1) / max(1, self.config.warmup_steps))
        done = progress.step / max(1, steps_per_epoch * self._epochs(progress.phase))
        cosine = 0.55 + 0.45 * math.cos(math.pi * min(1.0, done))
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate * warm * cosine

    def _epochs(self, phase: str) -> int:
        return self.config.retrieval_epochs if phase == "retrieval" else self.config.ranking_epochs


def _take_encoder(model: Recommender, donor: Recommender) -> None:
    """Everything but the ranker.

    Raises:
        InputError: the donor's shape or items differ.
    """
    if donor.vocabulary != model.vocabulary:
        raise InputError("the model to take the encoder from was trained on other items", field="encoder_from")
    weights = {name: weight for name, weight in donor.state_dict().items() if not name.startswith("ranker.")}
    expected = model.state_dict()
    for name, weight in weights.items():
        if name not in expected or expected[name].shape != weight.shape:
            raise InputError(f"the encoder to take differs from the config in {name!r}", field="encoder_from")
    model.load_state_dict(weights, strict=False)


def digest(sequences: Sequences) -> str:
    """Names the training events: the same events of the same users, the same name."""
    result = hashlib.sha256("\n".join(sequences.user_ids).encode())
    liked = (sequences.levels > 0).astype(np.float32)
    for array in (sequences.offsets, sequences.items, sequences.kinds, liked):
        result.update(array.tobytes())
    return result.hexdigest()


def _note(progress: Progress) -> str:
    return f"best NDCG {progress.best:.4f}" if progress.best >= 0 else ""


def _bar(console: Console) -> Bar:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Bar(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console, transient=True)
