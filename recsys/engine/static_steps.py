"""The step at static shapes on its device: pinned memory, a stream for copies and one for compute, captured graphs.

A shape has its own memory and, on CUDA, a graph that is captured when the shape is first used and replayed from then
on: one copy in, one launch, one copy out. At most `graphs_max` shapes are kept; the one unused for longest goes.
Where a capture fails the same step runs launch by launch. Tables of items are copied to where the graphs read them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recsys.model.recommender import Recommender
from recsys.model.static_step import Layout, Shape, found, given, step
from router import static

ITEMS_STEP = 1024  # the table has room for new items: growing past it captures everything anew
Form = Literal["graph", "launches"]
_capturing = threading.Lock()  # a version that is warmed up beside this one captures too


@dataclass(slots=True)
class _Ready:
    """A shape with its memory. Without a device of its own, host and device are the same."""

    given: Layout
    found: Layout
    given_host: Tensor
    given_device: Tensor
    found_host: Tensor
    found_device: Tensor
    graph: torch.cuda.CUDAGraph | None = None


class StaticSteps:
    """Runs steps one after another. Not thread-safe.

    Args:
        model: on its device, in evaluation mode.
        graphs_max: shapes kept, each with a captured graph on CUDA; 0 captures none and keeps one shape.
        complain: told once why a capture failed.

    Attributes:
        captured, failed, evicted: how many captures there were, how many of them failed, how many shapes had to go.
    """

    def __init__(self, model: Recommender, *, graphs_max: int, complain: Callable[[str], None]) -> None:
        self._model, self._device = model, model.device
        self._graphs_max, self._complain = graphs_max, complain
        self._ready: OrderedDict[tuple[str, Shape], _Ready] = OrderedDict()
        self._prices: dict[str, Tensor] = {}
        self._source_ID: Tensor | None = None
        self._table_ID = torch.empty(0, model.config.width, device=self._device)
        self._phase = 0
        self.captured = self.failed = self.evicted = 0
        self._cuda = self._device.type == "cuda"
        if self._cuda:
            self._copies, self._compute = torch.cuda.Stream(self._device), torch.cuda.Stream(self._device)
            self._pool = torch.cuda.graph_pool_handle()

    @property
    def kept(self) -> int:
        """Shapes that are kept."""
        return len(self._ready)

    def serves(self, policy: str) -> bool:
        """Whether a policy has a form with static shapes here."""
        config = self._model.config
        return config.gate == "softmax" and static.serves(policy, config.experts, self._device)

    def items(self, rows: int, candidates: int) -> int:
        """Rows to lay out for so many items and candidates: never fewer than before, and some to spare."""
        return -(-max(rows, candidates, len(self._table_ID)) // ITEMS_STEP) * ITEMS_STEP

    def run(
        self,
        policy: str,
        shape: Shape,
        table_ID: Tensor,
        fill: Callable[[Mapping[str, Tensor]], None],
    ) -> tuple[dict[str, Tensor], Form]:
        """One step.

        Args:
            fill: writes what `recsys.model.static_step.given` names; what was there before is gone. `phase` is ours.

        Returns:
            What `recsys.model.static_step.found` names, in memory of its own on the host, and how it ran.
        """
        self._follow(table_ID, shape.items)
        if policy not in self._prices:
            layers, experts = self._model.config.moe_layers, self._model.config.experts
            self._prices[policy] = torch.zeros(layers, experts, device=self._device)
        key, ready = (policy, shape), self._ready.get((policy, shape))
        first = ready is None
        if ready is None:
            self._make_room()
            ready = self._ready[key] = self._lay_out(shape)
        self._ready.move_to_end(key)
        ready.given_host.zero_()
        values = ready.given.views(ready.given_host)
        fill(values)
        values["phase"].fill_(self._phase)
        self._phase += 1
        form: Form = "launches" if ready.graph is None else "graph"
        if self._cuda:
            self._on_device(policy, ready)
            if first and self._graphs_max:
                self._capture(policy, ready)
        else:
            self._work(policy, ready)
        return ready.found.views(ready.found_host.clone()), form

    def _work(self, policy: str, ready: _Ready) -> None:
        values = ready.given.views(ready.given_device)
        ready.found.pack(step(self._model, self._table_ID, policy, values, self._prices[policy]), ready.found_device)

    def _on_device(self, policy: str, ready: _Ready) -> None:
        self._compute.wait_stream(torch.cuda.current_stream(self._device))  # which made prices and table
        with torch.cuda.stream(self._copies):
            ready.given_device.copy_(ready.given_host, non_blocking=True)
        self._compute.wait_stream(self._copies)
        with torch.cuda.stream(self._compute):
            if ready.graph is None:
                self._work(policy, ready)
            else:
                ready.graph.replay()
        self._copies.wait_stream(self._compute)
        with torch.cuda.stream(self._copies):
            ready.found_host.copy_(ready.found_device, non_blocking=True)
        self._copies.synchronize()  # without the interpreter, so that other threads read and write messages meanwhile

    def _capture(self, policy: str, ready: _Ready) -> None:
        """Record what has just run launch by launch, which compiled and allocated what a capture must not."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        self.captured += 1
        try:
            with (
                _capturing,
                torch.cuda.graph(graph, self._pool, self._compute, capture_error_mode="thread_local"),
            ):
                self._work(policy, ready)
        except Exception as error:  # a driver or a kernel that cannot: the launches still can
            torch.cuda.set_stream(stream)  # a capture that fails to end leaves its own, and its pool in use
            self._pool = torch.cuda.graph_pool_handle()
            self.failed += 1
            if self.failed == 1:
                self._complain(f"{type(error).__name__}: {error}")
            return
        ready.graph = graph

    def _lay_out(self, shape: Shape) -> _Ready:
        layouts = given(shape, self._model.config), found(shape, self._model.config)
        host = [torch.zeros(layout.bytes, dtype=torch.uint8, pin_memory=self._cuda) for layout in layouts]
        device = [memory.to(self._device) for memory in host]  # on a CPU the same memory
        return _Ready(*layouts, host[0], device[0], host[1], device[1])

    def _make_room(self) -> None:
        while len(self._ready) >= max(1, self._graphs_max):
            self._ready.popitem(last=False)
            self.evicted += 1

    def _follow(self, table_ID: Tensor, rows: int) -> None:
        """Have the items of `table_ID` where the graphs read them."""
        if rows > len(self._table_ID):
            self._ready.clear()  # their graphs read the old place
            self._table_ID = table_ID.new_zeros(rows, table_ID.shape[1])
            self._source_ID = None
        if table_ID is not self._source_ID:
            if self._cuda:
                self._compute.wait_stream(torch.cuda.current_stream(self._device))
                with torch.cuda.stream(self._compute):
                    self._table_ID[: len(table_ID)].copy_(table_ID)
            else:
                self._table_ID[: len(table_ID)].copy_(table_ID)
            self._source_ID = table_ID
