"""Time of a policy for one batch, on one thread, beside the MoE layer that it routes for.

Everything is run in turn, round after round, and a share is the median over rounds of a ratio inside one round: other
work on the machine then slows both sides of a ratio alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch
from rich.progress import Progress
from torch import Tensor

from kernels.ops import gate_scores, moe_experts
from recsys.bench import rivals
from recsys.bench.routing import RoutingBench, Row, equal_capacity
from recsys.model.config import ModelConfig
from recsys.model.ranker import MoEBlock
from router import compiled
from router.gates import TopicGates
from router.policies import Policy, get, names
from router.router import Router
from router.shapes import OwnThreshold, RouterState, RoutingPlan

WIDTH, HIDDEN = 128, 256
SHAPES = tuple((tokens, experts) for tokens in (256, 1024, 4096) for experts in (8, 16, 64))


class _Planned(Router):
    """Answers with a plan made before, so that a layer can be timed without its router."""

    def __init__(self, plan: RoutingPlan, capacity: int) -> None:
        super().__init__("topk", capacity_factor=1.0, layers=1, experts=len(plan.load_E))
        self._plan, self._rows = plan, capacity

    def route(
        self, layer: int, scores_TE: Tensor, k: int, bias_E: Tensor, own: OwnThreshold | None = None
    ) -> RoutingPlan:
        return self._plan

    def static_capacity(self, tokens: int, k: int) -> int | None:
        return self._rows


def measure_times(
    shapes: tuple[tuple[int, int], ...], *, rounds: int, slow: bool = True, progress: Progress | None = None
) -> list[Row]:
    """Median microseconds of each policy in a burst at capacity factor 1.0, and its shares of two forms of the layer.

    `share_of_layer`: of the ranker's whole MoE block (norm, gate, shared expert, routed experts on static slots)
    without its routing. `share_of_experts`: of gate and routed experts alone.

    Args:
        shapes: (tokens, experts).
        rounds: repetitions.
        slow: also the policies and rivals that are not meant to be fast.
        progress: where to show how far it is.
    """
    rows: list[Row] = []
    task = progress.add_task("Times", total=len(shapes)) if progress else None
    with _one_thread(), torch.inference_mode():
        for tokens, experts in shapes:
            rows.extend(_one_shape(tokens, experts, rounds, slow))
            if progress and task is not None:
                progress.advance(task)
    return rows


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _one_shape(tokens: int, experts: int, rounds: int, slow: bool) -> Iterator[Row]:
    options = RoutingBench(tokens=tokens)
    gates, k = TopicGates(experts, seed=0), options.k
    calm_TE = gates.draw(tokens, seed=1)
    burst = [gates.draw(tokens, seed=2 + n, hot_topic=0) for n in range(4)]
    capacity_E = equal_capacity(options, experts, 1.0)
    policies: list[Policy] = [get(name) for name in names()] if slow else [get("topk"), get("price")]
    if slow:
        policies += [rivals.EVICT_AND_REBID, rivals.IN_ARRIVAL_ORDER, rivals.IN_CONFIDENCE_ORDER]
    work: dict[str, Callable[[int], object]] = {}
    for policy in policies:
        work[policy.name] = _in_turn(policy, burst, capacity_E, k, _settled(policy, burst, capacity_E, k))
    after_calm = _settled(get("price"), [calm_TE], capacity_E, k)
    work["price, first batch of a burst"] = _in_turn(get("price"), burst[:1], capacity_E, k, after_calm)
    plan, _ = get("price").route(burst[0], capacity_E, k, RouterState.initial(experts))
    work["layer"], work["experts"] = _layer(plan, int(capacity_E.max()), tokens, experts, k)
    seconds = _interleaved(work, rounds)
    for name in work:
        if name not in ("layer", "experts"):
            of = {part: median(a / b for a, b in zip(seconds[name], seconds[part], strict=True)) for part in PARTS}
            yield {
                "tokens": tokens,
                "experts": experts,
                "policy": name,
                "compiled": str(compiled.available),
                "us": 1e6 * median(seconds[name]),
                "us_least": 1e6 * min(seconds[name]),
                "layer_us": 1e6 * median(seconds["layer"]),
                "share_of_layer": of["layer"],
                "share_of_experts": of["experts"],
            }


PARTS = ("layer", "experts")


def _settled(policy: Policy, batches: list[Tensor], capacity_E: Tensor, k: int) -> RouterState:
    state = RouterState.initial(len(capacity_E))
    for scores_TE in batches:
        _, state = policy.route(scores_TE, capacity_E, k, state)
    return state


def _in_turn(
    policy: Policy, batches: list[Tensor], capacity_E: Tensor, k: int, state: RouterState
) -> Callable[[int], object]:
    return lambda turn: policy.route(batches[turn % len(batches)], capacity_E, k, state)


def _layer(
    plan: RoutingPlan, rows: int, tokens: int, experts: int, k: int
) -> tuple[Callable[[int], object], Callable[[int], object]]:
    """The ranker's MoE block without its routing, and its gate and routed experts alone."""
    config = ModelConfig(items=1, width=WIDTH, expert_hidden=HIDDEN, experts=experts, k=k, moe_layers=1)
    block, planned = MoEBlock(config).eval(), _Planned(plan, rows)
    x_TD = torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(0))
    gate_DE = block.gate.weight.T

    def routed(_: int) -> Tensor:
        gate_scores(x_TD, gate_DE)
        up, down = block.experts.up_ED2H, block.experts.down_EHD
        ids_TK, gates_TK = plan.expert_ids_TK, plan.gates_TK
        return moe_experts(x_TD, ids_TK, gates_TK, plan.rank_TK, plan.load_E, up, down, capacity=rows)

    return lambda _: block(x_TD, 0, planned), routed


def _interleaved(work: dict[str, Callable[[int], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each piece in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, piece in work.items():
            began = time.perf_counter()
            piece(turn)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds
