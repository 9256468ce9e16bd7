"""One layer to measure: its tokens calm or in a crowd, its forms, and what each must compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kernels import ops, reference
from kernels.gpu import layer, tiles
from kernels.gpu.machine import CudaDevice, Interpreter
from kernels.gpu.route import route
from kernels.gpu.shapes import Shape


class Form(NamedTuple):
    """A form of ours: its name, how it runs, and which slots it computes: "all", "first" (capacity) or "balanced"."""

    name: str
    run: Callable[[Tensor], Tensor]
    slots: str


class Bench:
    """A layer in bfloat16 with several batches of tokens."""

    def __init__(self, name: str, shape: Shape, routing: str, machine: CudaDevice | Interpreter) -> None:
        self.name, self.shape, self.routing, self.k = name, shape, routing, shape.k
        draws = torch.Generator(machine.torch_name).manual_seed(0)
        tokens, width, hidden, experts, _ = shape

        def normal(*size: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(*size, generator=draws, device=machine.torch_name) * scale).bfloat16()

        self.gate_DE = normal(width, experts, scale=width**-0.5)
        self.w_up = normal(experts, width, 2 * hidden, scale=width**-0.5)
        self.w_down = normal(experts, hidden, width, scale=hidden**-0.5)
        self.batches = [normal(tokens, width) for _ in range(machine.batches)]
        if routing == "crowd":  # half of the tokens come for one topic
            topic_D = normal(width)
            for x_TD in self.batches:
                x_TD[::2] = 0.3 * x_TD[::2] + topic_D
        self.capacity = -(-shape.slots // experts)
        self.capacity_E = torch.full((experts,), self.capacity, device=machine.torch_name)

    def forms(self) -> Iterator[Form]:
        """The forms of this project."""
        weights, shape = (self.gate_DE, self.w_up, self.w_down, self.k), self.shape
        if tiles.prefers_tiny(shape.tokens, shape.width, shape.hidden, shape.experts):
            yield Form("ours: one launch", lambda x: layer.moe(x, *weights), "all")
        # A capacity that nobody reaches keeps to the separate kernels.
        yield Form("ours: dropless", lambda x: layer.moe(x, *weights, capacity=shape.tokens), "all")
        yield Form("ours: capacity 1.0", lambda x: layer.moe(x, *weights, capacity=self.capacity), "first")
        yield Form("ours: balanced", lambda x: self.balanced(x).y_TD, "balanced")

    def balanced(self, x_TD: Tensor) -> layer.Balanced:
        """The layer at capacity factor 1, from prices of nought."""
        return layer.balanced(x_TD, self.gate_DE, self.w_up, self.w_down, self.k, self.capacity_E)

    def expected(self, x_TD: Tensor, ids_TK: Tensor, gates_TK: Tensor) -> Tensor:
        """Float64, expert by expert."""
        y_TD = torch.zeros(x_TD.shape, dtype=torch.float64, device=x_TD.device)
        for e in range(self.shape.experts):
            token_N, slot_N = (ids_TK == e).nonzero(as_tuple=True)
            y_ND = reference.swiglu(x_TD[token_N].double(), self.w_up[e].double(), self.w_down[e].double())
            y_TD.index_add_(0, token_N, y_ND * gates_TK[token_N, slot_N, None].double())
        return y_TD

    def error(self, form: Form) -> tuple[float, float | None]:
        """Relative norm error on the first batch, for the routes that the kernels take, and the certified gap.

        Infinite where a balanced layer loses a slot or exceeds a capacity.
        """
        x_TD, gap = self.batches[0], None
        scores_TE = route(x_TD, self.gate_DE, self.k, keep_scores=True).scores_TE
        assert scores_TE is not None
        ids_TK = ops.choose(scores_TE, self.k)
        if form.slots == "first":
            rank_TK, _ = ops.rank_slots(ids_TK, self.shape.experts)
            ids_TK = ids_TK.masked_fill(rank_TK >= self.capacity, -1)
        if form.slots == "balanced":
            assignment = self.balanced(x_TD).assignment
            held_TE = (assignment.held_T[:, None] >> torch.arange(self.shape.experts, device=x_TD.device)) & 1
            if bool((held_TE.sum(1) != self.k).any()) or bool((held_TE.sum(0) > self.capacity_E).any()):
                return float("inf"), None
            ids_TK, gap = (scores_TE + 10 * held_TE).topk(self.k, dim=1).indices, float(assignment.gap)
        expected = self.expected(x_TD, ids_TK, ops.normalised_gates(scores_TE.double(), ids_TK))
        return float((form.run(x_TD).double() - expected).norm() / expected.norm()), gap
