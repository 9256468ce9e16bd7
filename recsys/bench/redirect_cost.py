"""What a redirect costs: NDCG@10 and gate score kept under each policy, as slots become scarce, calm and in a crowd.

The answers to held-out events are ranked in micro-batches, as an engine would, once per policy and capacity factor; the
same model without limits is what they are compared with. In a crowd most requests of a batch come from users who have
just had one category, so that they want the same experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from recsys.model.encoder import Encoded
from recsys.model.ranker import MoEBlock
from recsys.model.recommender import Recommender
from recsys.training.evaluate import KeptOut, Row, kept_out
from recsys.training.examples import Floats, Ints
from recsys.training.metrics import ndcg
from recsys.training.scoring import rank_among, retrieve
from router.router import Router

RECENT = 20  # newest events that say what a user is after
COLOURS = {
    "topk": "#999999",
    "drop": "#5c6b73",
    "expanded_drop": "#00798c",
    "phase": "#edae49",
    "price": "#d1495b",
}
_GROUP = ("redirect_ready", "traffic", "policy", "capacity_factor")
_MEANS = (
    "slots_per_token",
    "ndcg_10",
    "lost_percent",
    "lost_error",
    "score_kept",
    "redirected",
    "demand_max_over_mean",
)


@dataclass(frozen=True, slots=True)
class RedirectOptions:
    """What is compared.

    Attributes:
        policies: names; `topk` stands for the same model with fewer experts per token, without any bound.
        factors: capacity factors; k times a factor below 1 is the number of slots per token.
        requests: events predicted in each of calm and crowd.
        batch: requests in a micro-batch.
        crowd_share: share of a crowd's batch that wants the one category.
        candidates: per request.
        seed: of the draws.
    """

    policies: Sequence[str] = ("topk", "drop", "expanded_drop", "phase", "price")
    factors: Sequence[float] = (2.0, 1.5, 1.25, 1.0, 0.75, 0.5)
    requests: int = 2_048
    batch: int = 32
    crowd_share: float = 0.8
    candidates: int = 200
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Batch:
    """A micro-batch up to the ranker."""

    encoded: Encoded
    candidates_BN: Tensor
    real_BN: Tensor
    targets_B: Tensor


@dataclass(slots=True)
class _Arm:
    """One policy at one capacity factor, and what came of it."""

    router: Router
    k: int
    ranks: list[Tensor] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    slots: list[float] = field(default_factory=list)
    redirected: list[float] = field(default_factory=list)
    fullest: list[float] = field(default_factory=list)

    def rank(self, model: Recommender, table_ID: Tensor, batch: _Batch) -> None:
        """Rank one micro-batch and take notes."""
        with _experts_per_token(model, self.k):
            ranked = model.rank(batch.encoded, batch.candidates_BN, table_ID, self.router)
        click_BN = ranked.logits_BNG[..., 0].masked_fill(~batch.real_BN, -torch.inf)
        self.ranks.append(rank_among(click_BN, batch.candidates_BN, batch.targets_B))
        for plan in ranked.plans:
            demand_E = plan.demand_E.double()
            self.kept.append(float(plan.score_kept))
            self.slots.append(float(plan.load_E.sum()) / len(plan.expert_ids_TK))
            self.redirected.append(float(plan.redirected_TK.double().mean()))
            self.fullest.append(float(demand_E.max() / demand_E.mean()))


@contextmanager
def _experts_per_token(model: Recommender, k: int) -> Iterator[None]:
    blocks = [block for block in model.ranker.blocks if isinstance(block, MoEBlock)]
    before = [block.k for block in blocks]
    for block in blocks:
        block.k = k
    try:
        yield
    finally:
        for block, old in zip(blocks, before, strict=True):
            block.k = old


@torch.inference_mode()
def redirect_cost(
    model_folder: Path | str, dataset_folder: Path | str, options: RedirectOptions, console: Console | None = None
) -> list[Row]:
    """Measure a model on the events that its training kept out.

    Returns:
        One row per traffic (calm, crowd), policy and capacity factor: `ndcg_10`; `lost_percent` of what the model
        reaches without limits on the same requests, with its standard error `lost_error`; `score_kept` of the gates;
        `slots_per_token` in use; share `redirected`; `demand_max_over_mean`, the load that plain top-k would put on
        the fullest expert; and `redirect_ready`, whether training disturbed the gates.

    Raises:
        InputError: as `evaluate`.
    """
    kept = kept_out(model_folder, dataset_folder)
    model, table_ID = kept.model, kept.catalogue.table(kept.model)
    rows: list[Row] = []
    for traffic, batches in traffics(kept, options).items():
        free = _Arm(Router.unconstrained(model.config.moe_layers, model.config.experts), model.config.k)
        arms = {(policy, factor): arm for policy, factor, arm in _arms(model, options)}
        for cases in track(batches, traffic, console=console, transient=True):
            batch = _prepare(kept, table_ID, cases, options.candidates)
            for arm in (free, *arms.values()):
                arm.rank(model, table_ID, batch)
        base = torch.cat(free.ranks)
        named = {("without limits", 0.0): free, **arms}
        rows += [_row(model, traffic, policy, factor, arm, base) for (policy, factor), arm in named.items()]
    return rows


def traffics(kept: KeptOut, options: RedirectOptions) -> dict[str, list[Ints]]:
    """Cases of each micro-batch: drawn evenly, and from those who lately had most of the commonest category."""
    random = np.random.default_rng(options.seed)
    shares_NC = np.stack([_recent_categories(kept, case) for case in range(len(kept.cases))])
    order = np.argsort(-shares_NC[:, shares_NC.mean(0).argmax()], kind="stable")
    wanted = min(options.requests, len(order))
    fans = order[: int(wanted * options.crowd_share)]
    rest = random.choice(order[len(fans) :], wanted - len(fans), replace=False)
    calm = random.choice(order, wanted, replace=False)
    crowd = random.permutation(np.concatenate([fans, rest]))
    return {
        name: np.array_split(cases, -(-wanted // options.batch)) for name, cases in (("calm", calm), ("crowd", crowd))
    }


def over_seeds(rows: list[Row]) -> list[Row]:
    """Models that differ in their seed alone as one: means, and of `lost_percent` the lowest and the highest too."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in _GROUP), []).append(row)
    return [
        dict(zip(_GROUP, key, strict=True))
        | {name: round(float(np.mean([row[name] for row in group])), 4) for name in _MEANS}
        | {"lost_lowest": min(row["lost_percent"] for row in group)}
        | {"lost_highest": max(row["lost_percent"] for row in group), "models": len(group)}
        for key, group in groups.items()
    ]


def plot(rows: list[Row], out: Path) -> None:
    """NDCG@10 lost above gate score kept, over slots per token, for rows of `over_seeds`.

    Models that were not trained for redirects are dashed; from the lowest to the highest model is shaded.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for ready, style in ((True, "-"), (False, "--")):
        for column, traffic in enumerate(("calm", "crowd")):
            drawn = [
                r for r in rows if (r["redirect_ready"], r["traffic"]) == (ready, traffic) and r["capacity_factor"]
            ]
            for policy in dict.fromkeys(row["policy"] for row in drawn):
                line = [row for row in drawn if row["policy"] == policy]
                x = [row["capacity_factor"] for row in line]
                label = policy if ready else f"{policy}, not trained for it"
                look = {"color": COLOURS.get(policy), "linestyle": style, "marker": ".", "label": label}
                axes[0][column].plot(x, [row["lost_percent"] for row in line], **look)
                axes[1][column].plot(x, [100 * row["score_kept"] for row in line], **look)
                if ready:
                    low, high = ([row[name] for row in line] for name in ("lost_lowest", "lost_highest"))
                    axes[0][column].fill_between(x, low, high, color=COLOURS.get(policy), alpha=0.12, linewidth=0)
    for column, traffic in enumerate(("calm", "crowd")):
        axes[0][column].set_title(traffic)
        axes[0][column].set_ylim(-1.5, 5.0)
        axes[0][column].axhline(0, color="#dddddd", zorder=0)
        axes[1][column].set_xlabel("capacity factor (slots per expert over the mean wish)")
        for axis in (axes[0][column], axes[1][column]):
            axis.axvline(1.0, color="#dddddd", zorder=0)
    axes[0][0].set_ylabel("NDCG@10 lost, %")
    axes[1][0].set_ylabel("gate score kept, %")
    axes[0][0].invert_xaxis()  # shared: scarcer to the right
    figure.legend(
        *axes[1][0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=7, handlelength=4
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)


def _arms(model: Recommender, options: RedirectOptions) -> Iterator[tuple[str, float, _Arm]]:
    layers, experts, k = model.config.moe_layers, model.config.experts, model.config.k
    for policy in options.policies:
        for factor in options.factors:
            if policy == "topk":  # no bound: only whole experts fewer per token
                fewer = factor * k
                if fewer == int(fewer) and fewer < k:
                    yield policy, factor, _Arm(Router.unconstrained(layers, experts), int(fewer))
            else:
                yield policy, factor, _Arm(Router(policy, capacity_factor=factor, layers=layers, experts=experts), k)


def _prepare(kept: KeptOut, table_ID: Tensor, cases: Ints, candidates: int) -> _Batch:
    encoded, scores_BI = retrieve(kept.model, table_ID, kept.cases, cases)
    best = scores_BI.topk(min(candidates, scores_BI.shape[1] - 1), sorted=True)
    return _Batch(encoded, best.indices, best.values.isfinite(), torch.from_numpy(kept.cases.targets[cases]))


def _recent_categories(kept: KeptOut, case: int) -> Floats:
    begin, end = int(kept.cases.begins[case]), int(kept.cases.ends[case])
    items = torch.from_numpy(kept.cases.sequences.items[max(begin, end - RECENT) : end])
    shares_C = kept.catalogue.features.categories_IC[items].sum(0) / max(1, len(items))
    return shares_C.numpy()


def _row(model: Recommender, traffic: str, policy: str, factor: float, arm: _Arm, base: Tensor) -> Row:
    ranks = torch.cat(arm.ranks)
    gain, base_gain = (torch.where(r <= 10, 1 / torch.log2(1.0 + r.double()), 0.0) for r in (ranks, base))
    percent = 100 / max(1e-9, float(base_gain.mean()))
    return {
        "model": model.version,
        "redirect_ready": bool(model.config.gate_noise or model.config.expert_dropout),
        "traffic": traffic,
        "policy": policy,
        "capacity_factor": factor,
        "slots_per_token": round(float(np.mean(arm.slots)), 3),
        "ndcg_10": round(ndcg(ranks), 5),
        "lost_percent": round(percent * float((base_gain - gain).mean()), 3),
        "lost_error": round(percent * float((base_gain - gain).std()) / len(ranks) ** 0.5, 3),
        "score_kept": round(float(np.mean(arm.kept)), 4),
        "redirected": round(float(np.mean(arm.redirected)), 4),
        "demand_max_over_mean": round(float(np.mean(arm.fullest)), 2),
        "requests": len(ranks),
    }
