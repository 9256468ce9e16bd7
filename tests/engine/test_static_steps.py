"""What a CUDA device is told, in which order, rehearsed without one: streams and graphs that note what they are asked.

Memory of the device is memory of its own here too, so that a copy that is missing shows in the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from recsys.engine.static_steps import StaticSteps, _Ready
from recsys.model.config import ModelConfig
from recsys.model.recommender import Recommender
from recsys.model.static_step import Shape
from recsys.model.vocabulary import Vocabulary

SHAPE = Shape(requests=2, history=12, candidates=8, items=1024)
ONE_STEP = [
    "compute waits for default",
    "copies: copy",
    "compute waits for copies",
    "compute: {}",
    "copies waits for compute",
    "copies: copy",
    "copies: synchronize",
]


class Cuda:
    """As much of `torch.cuda` as the steps use."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.names = iter(("copies", "compute"))
        self.current = self.Stream(self, "default")
        self.capturing: Any = None
        self.pools: list[object] = []

    class Stream:
        def __init__(self, cuda: Cuda, name: str) -> None:
            self.cuda, self.name = cuda, name

        def wait_stream(self, other: Cuda.Stream) -> None:
            self.cuda.told.append(f"{self.name} waits for {other.name}")

        def synchronize(self) -> None:
            self.cuda.told.append(f"{self.name}: synchronize")

    class Graph:
        def __init__(self, cuda: Cuda) -> None:
            self.cuda, self.work = cuda, None

        def replay(self) -> None:
            assert self.work is not None
            self.cuda.told.append(f"{self.cuda.current.name}: replay")
            self.work()

    def set_stream(self, stream: Stream) -> None:
        self.current = stream

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextmanager
    def graph(self, graph: Graph, pool: object, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        self.pools.append(pool)
        self.capturing, self.current = graph, stream
        self.told.append("capture")
        try:
            yield
        finally:
            self.capturing = None
        self.current = self.default

    def installed(self, patch: pytest.MonkeyPatch) -> None:
        self.default = self.current
        fake = SimpleNamespace(
            Stream=lambda device: self.Stream(self, next(self.names)),
            CUDAGraph=lambda: self.Graph(self),
            current_stream=lambda device: self.current,
            graph_pool_handle=object,
            **{name: getattr(self, name) for name in ("stream", "set_stream", "graph")},
        )
        for name, value in vars(fake).items():
            patch.setattr(f"torch.cuda.{name}", value)
        work = StaticSteps._work

        def noted(steps: StaticSteps, policy: str, ready: _Ready) -> None:
            if self.capturing is not None:
                self.capturing.work = lambda: work(steps, policy, ready)
            else:
                if not self.told or not self.told[-1].endswith("replay"):
                    self.told.append(f"{self.current.name}: launches")
                work(steps, policy, ready)

        patch.setattr(StaticSteps, "_work", noted)
        patch.setattr(Recommender, "device", property(lambda model: torch.device("cuda")))
        patch.setattr("router.static.serves", lambda *_: True)


class OnCpu(TorchFunctionMode):
    """Memory of the device is made on the CPU; copies between host and device are noted."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__()
        self.cuda = cuda

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {name: value for name, value in (kwargs or {}).items() if name != "pin_memory"}
        if str(kwargs.get("device")) == "cuda":
            kwargs["device"] = "cpu"
        if function is Tensor.to and str(args[1]) == "cuda":
            return args[0].clone()
        if function is Tensor.copy_ and kwargs.get("non_blocking"):
            self.cuda.told.append(f"{self.cuda.current.name}: copy")
        return function(*args, **kwargs)


@pytest.fixture
def cuda() -> Iterator[Cuda]:
    cuda = Cuda()
    with pytest.MonkeyPatch.context() as patch:
        cuda.installed(patch)
        with OnCpu(cuda), torch.inference_mode():
            yield cuda


@pytest.fixture(scope="module")
def model() -> Recommender:
    torch.manual_seed(3)
    vocabulary = Vocabulary(items=tuple(f"i{n}" for n in range(60)), categories=("War",), year_starts=(1990,))
    shape = {"width": 16, "history": 12, "experts": 4, "expert_hidden": 8}
    model = Recommender(ModelConfig.from_json(shape | vocabulary.sizes()), vocabulary)
    for weight in (model.item_ids.weight, model.ranker.heads.weight):
        torch.nn.init.normal_(weight)
    return model.eval()


def asked(item: int) -> Callable[[Mapping[str, Tensor]], None]:
    def fill(values: Mapping[str, Tensor]) -> None:
        values["history_BL"][:, :3] = torch.tensor([item, item + 1, item + 2])
        values["width_B"].fill_(8)
        values["allowed_BI"][:, 1:61] = True
        values["capacity_E"].fill_(100)

    return fill


def expected(model: Recommender, table_ID: Tensor, item: int) -> Tensor:
    """Logits of the plain step on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recommender, "device", property(lambda model: torch.device("cpu")))
        steps = StaticSteps(model, graphs_max=1, complain=print)
        return steps.run("topk", SHAPE, table_ID, asked(item))[0]["logits_BNG"]


def test_one_copy_in_one_launch_one_copy_out(cuda: Cuda, model: Recommender) -> None:
    steps, table_ID = StaticSteps(model, graphs_max=4, complain=pytest.fail), model.item_ids.weight.detach()
    for turn, item in enumerate((1, 20, 40)):
        cuda.told.clear()
        found, form = steps.run("topk", SHAPE, table_ID, asked(item))
        told = cuda.told[-7:] if turn else cuda.told[-8:-1]
        assert told == [what.format("replay" if turn else "launches") for what in ONE_STEP]
        assert (cuda.told[-1] == "capture") == (turn == 0)
        assert form == ("graph" if turn else "launches")
        assert cuda.current.name == "default"
        told = list(cuda.told)
        torch.testing.assert_close(found["logits_BNG"], expected(model, table_ID, item))
        assert turn == 0 or len(told) == len(ONE_STEP)
    assert (steps.captured, steps.failed) == (1, 0)


def test_a_capture_that_fails_is_said_once_and_the_launches_go_on(
    cuda: Cuda, model: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def failing(graph: object, pool: object, stream: Cuda.Stream, capture_error_mode: str) -> Iterator[None]:
        cuda.pools.append(pool)
        cuda.current = stream
        yield
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr("torch.cuda.graph", failing)
    complaints: list[str] = []
    steps, table_ID = StaticSteps(model, graphs_max=4, complain=complaints.append), model.item_ids.weight.detach()
    for shape in (SHAPE, SHAPE, SHAPE._replace(requests=4)):
        found, form = steps.run("topk", shape, table_ID, asked(5))
        assert form == "launches"
        assert cuda.current.name == "default"
        torch.testing.assert_close(found["logits_BNG"][:2], expected(model, table_ID, 5))
    assert (steps.captured, steps.failed) == (2, 2)
    assert complaints == ["RuntimeError: operation not permitted when stream is capturing"]
    assert cuda.pools[0] is not cuda.pools[1]


def test_without_graphs_every_step_is_launches(cuda: Cuda, model: Recommender) -> None:
    steps, table_ID = StaticSteps(model, graphs_max=0, complain=pytest.fail), model.item_ids.weight.detach()
    forms = {steps.run("topk", SHAPE, table_ID, asked(item))[1] for item in (1, 2, 3)}
    assert forms == {"launches"}
    assert "capture" not in cuda.told


def test_a_table_that_outgrows_its_place_is_captured_anew(cuda: Cuda, model: Recommender) -> None:
    steps, table_ID = StaticSteps(model, graphs_max=4, complain=pytest.fail), model.item_ids.weight.detach()
    longer_ID = torch.cat([table_ID, torch.randn(2000, table_ID.shape[1])])
    for table, form in ((table_ID, "launches"), (table_ID, "graph"), (longer_ID, "launches"), (longer_ID, "graph")):
        shape = SHAPE._replace(items=steps.items(len(table), SHAPE.candidates))
        found, how = steps.run("topk", shape, table, asked(9))
        assert how == form
        torch.testing.assert_close(found["logits_BNG"], expected(model, table_ID, 9))
    changed_ID = table_ID.flip(1).contiguous()  # what was changed stays in its place
    found, how = steps.run("topk", shape, changed_ID, asked(9))
    assert how == "graph"
    torch.testing.assert_close(found["logits_BNG"], expected(model, changed_ID, 9))
