"""The step at static shapes: nothing is read back from the device, and padding changes no answer.

The first is shown without a GPU. Tensors that have shapes but no memory walk through the code that a GPU runs: whatever
asks for a value, or for a shape that depends on one, raises, and so does whatever mixes in a tensor of the host, since
that is a copy which a CUDA graph cannot hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kernels import ops, selection
from recsys.model import ranker, static_step
from recsys.model.recommender import Recommender
from recsys.model.static_step import Layout, Shape, real_plans, step
from router import static
from router.router import Router

SHAPE = Shape(requests=4, history=12, candidates=8, items=48)


class HostTouched(AssertionError):
    """Something of the host, or the size of something on the device, was needed during the step."""


class DeviceOnly(TorchDispatchMode):
    """Every tensor of every operation is on the device, and no operation has to count on it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        self.seen.add(op.name())
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, Tensor) and leaf.device.type != "meta":
                raise HostTouched(f"{op}: a tensor {tuple(leaf.shape)} on {leaf.device}")
        if "index_put" in op.name() and any(i is not None and i.dtype == torch.bool for i in args[1]):
            raise HostTouched(f"{op}: a boolean index is counted on the host")
        return result


@contextmanager
def device_without_memory() -> Iterator[DeviceOnly]:
    """Tensors on `meta` go the ways of a GPU; yields the mode to be entered where a step begins."""
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(ops, "triton_serves", lambda x: True)
        patch.setattr(ranker, "_compute_type", lambda x: x.dtype)  # there is no autocast there
        yield DeviceOnly()


MODELS: Sequence[dict[str, object]] = ({}, {"encoder_gated": True, "encoder_ages": 4, "ranker_ages": 4}, {"k": 3})


def walk(model: Recommender, policy: str) -> set[str]:
    """The step from copy in to copy out; which operations it took."""
    layouts = static_step.given(SHAPE, model.config), static_step.found(SHAPE, model.config)
    with device_without_memory() as only:
        model.to("meta")
        memory, out = (torch.empty(layout.bytes, dtype=torch.uint8, device="meta") for layout in layouts)
        table_ID = torch.empty(SHAPE.items, model.config.width, device="meta")
        prices_LE = torch.empty(model.config.moe_layers, model.config.experts, device="meta")
        values = layouts[0].views(memory)
        with only:
            layouts[1].pack(step(model, table_ID, policy, values, prices_LE), out)
    return only.seen


@pytest.mark.parametrize("changes", MODELS)
@pytest.mark.parametrize("policy", ["topk", "price"])
def test_the_host_is_not_needed_between_copy_in_and_copy_out(
    make_model: Callable[..., Recommender], policy: str, changes: dict[str, object]
) -> None:
    seen = walk(make_model(**changes), policy)
    assert "moe::planned_experts" in seen  # the kernels of a GPU, not those of a CPU
    assert ("moe::choose_balanced" in seen) == (policy == "price")


def test_nor_is_it_inside_the_operations(
    make_model: Callable[..., Recommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, through the bodies of the project's operations, whose launches compile for an H100 and end there."""
    pytest.importorskip("triton", reason="triton is not installed here")
    from kernels.gpu.resources import compiled_only

    monkeypatch.setattr(ops, "planned_experts", ops.planned_experts._init_fn)
    monkeypatch.setattr(selection, "_rank_slots", selection._rank_slots._init_fn)
    monkeypatch.setattr(static, "choose_balanced", ops.choose_balanced._init_fn)
    model = make_model()
    with compiled_only() as launched:
        seen = walk(model, "price")
    layer = ["prices", "assign", "route", "plan", "experts", "combine"]
    assert [name for name, _, _ in launched] == layer * model.config.moe_layers
    assert not any(name.startswith("moe::") for name in seen)


HOST_NEEDED = HostTouched, RuntimeError  # the latter is how a tensor without memory says so
READS: dict[str, Callable[[Tensor], Any]] = {
    "a branch": lambda x: bool(x.any()),
    "a number": lambda x: x.sum().item(),
    "a list": lambda x: x.tolist(),
    "a copy to the host": lambda x: x.to("cpu"),
    "a copy from the host": lambda x: x + torch.ones(3).to("meta"),
    "a mask that selects": lambda x: x[x > 0],
    "a mask that is written to": lambda x: x.index_put_((x > 0,), x[:1]),
    "places": lambda x: x.nonzero(),
    "repeats": lambda x: x.repeat_interleave(x.long()),
    "counts": lambda x: x.long().bincount(),
}


@pytest.mark.parametrize("name", READS)
def test_what_a_graph_cannot_hold_is_seen(name: str) -> None:
    with device_without_memory() as only:
        x = torch.empty(3, device="meta")
        with only, pytest.raises(HOST_NEEDED):
            READS[name](x)


@pytest.mark.parametrize("policy", ["topk", "price", "drop", "sinkhorn"])
def test_the_plain_step_is_seen_to_need_the_host(make_model: Callable[..., Recommender], policy: str) -> None:
    model = make_model()
    with device_without_memory() as only:
        model.to("meta")
        history_BL = torch.empty(4, 12, dtype=torch.int64, device="meta")
        table_ID = torch.empty(48, model.config.width, device="meta")
        router = Router(policy, capacity_factor=1.0, layers=model.config.moe_layers, experts=model.config.experts)
        with only, pytest.raises(HOST_NEEDED):
            model.rank(model.encode(history_BL, history_BL, table_ID, compact=True), history_BL, table_ID, router)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.integers(1, 9),
    padding=st.tuples(st.integers(0, 7), st.integers(0, 6), st.integers(0, 9), st.integers(0, 20)),
    dead=st.integers(-1, 3),
    seed=st.integers(0, 10_000),
)
def test_padding_changes_no_answer(
    model: Recommender,
    table_ID: Tensor,
    requests: int,
    padding: tuple[int, int, int, int],
    dead: int,
    seed: int,
) -> None:
    draws = torch.Generator().manual_seed(seed)
    shape = Shape(requests, 6, 5, len(table_ID))
    values = {name: torch.zeros(f.shape, dtype=f.dtype) for name, f in fields(shape, model).items()}
    values["history_BL"] = torch.randint(1, len(table_ID), (requests, 6), generator=draws)
    values["history_BL"][torch.arange(6) >= torch.randint(0, 7, (requests, 1), generator=draws)] = 0
    values["allowed_BI"] = torch.rand(requests, len(table_ID), generator=draws) < 0.3
    named_B = torch.rand(requests, generator=draws) < 0.3
    values["named_BN"][named_B, :3] = torch.randint(1, len(table_ID), (int(named_B.sum()), 3), generator=draws)
    values["width_B"] = torch.where(named_B, 0, torch.randint(1, 6, (requests,), generator=draws))
    values["capacity_E"].fill_(10)
    if dead >= 0:
        values["capacity_E"][dead] = 0

    plain, plain_plans = run(model, table_ID, shape, values)
    wider = Shape(*(n + more for n, more in zip(shape, padding, strict=True)))
    wide_table_ID = torch.cat([table_ID, torch.randn(padding[3], table_ID.shape[1], generator=draws)])
    padded, plans = run(model, wide_table_ID, wider, values)
    assert torch.equal(padded["candidates_BN"][:requests, :5], plain["candidates_BN"])
    assert not padded["candidates_BN"][requests:].any()
    assert not padded["candidates_BN"][:, 5:].any()
    real_BN = plain["candidates_BN"] > 0
    torch.testing.assert_close(
        padded["logits_BNG"][:requests, :5][real_BN], plain["logits_BNG"][real_BN], rtol=0, atol=1e-5
    )
    for ours, theirs in zip(plans, plain_plans, strict=True):
        for name in ("wishes_TK", "expert_ids_TK", "rank_TK", "demand_E", "load_E", "redirected_TK"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        torch.testing.assert_close(ours.gates_TK, theirs.gates_TK)
        assert int(ours.load_E.sum()) == 2 * int(real_BN.sum())  # padding takes no slot
        assert dead < 0 or not ours.load_E[dead]

    # And the step is what encode, retrieve and rank say, of the real candidates alone.
    free = Router.unconstrained(model.config.moe_layers, model.config.experts)
    if dead >= 0:
        health_E = torch.ones(model.config.experts)
        health_E[dead] = 0
        free.set_health(health_E)
    encoded = model.encode(values["history_BL"], values["kinds_BL"], table_ID, compact=True)
    ranked = model.rank(encoded, plain["candidates_BN"], table_ID, free)
    torch.testing.assert_close(plain["logits_BNG"][real_BN], ranked.logits_BNG[real_BN], rtol=0, atol=1e-5)
    for ours, theirs in zip(plain_plans, ranked.plans, strict=True):
        for name in ("wishes_TK", "expert_ids_TK", "rank_TK", "demand_E", "load_E", "redirected_TK"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        torch.testing.assert_close(ours.score_kept, theirs.score_kept)


def fields(shape: Shape, model: Recommender) -> dict[str, static_step.Field]:
    return static_step.given(shape, model.config).fields


@torch.inference_mode()
def run(
    model: Recommender, table_ID: Tensor, shape: Shape, values: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[Any]]:
    """A step with `values` in the corner of a larger shape, through one piece of memory each way."""
    layouts = static_step.given(shape, model.config), static_step.found(shape, model.config)
    memory, out = (torch.zeros(layout.bytes, dtype=torch.uint8) for layout in layouts)
    laid_out = layouts[0].views(memory)
    for name, value in values.items():
        laid_out[name][tuple(slice(0, n) for n in value.shape)] = value
    prices_LE = torch.zeros(model.config.moe_layers, model.config.experts)
    layouts[1].pack(step(model, table_ID, "topk", laid_out, prices_LE), out)
    found = layouts[1].views(out)
    real_T = found["candidates_BN"].reshape(-1) != 0
    return found, real_plans(found, values["capacity_E"], real_T, model.config.moe_layers)


def test_all_tensors_stand_aligned_in_one_piece_and_a_wrong_one_is_named() -> None:
    layout = Layout(
        {
            "flag": static_step.Field((3,), torch.bool),
            "gate": static_step.Field((2, 2), torch.float32),
            "row": static_step.Field((), torch.int64),
        }
    )
    memory = torch.zeros(layout.bytes, dtype=torch.uint8)
    values = {"row": torch.tensor(7), "gate": torch.eye(2), "flag": torch.tensor([True, False, True])}
    layout.pack(values, memory)
    assert layout.bytes == 8 + 16 + 3
    for name, value in layout.views(memory).items():
        assert torch.equal(value, values[name])
    with pytest.raises(ValueError, match=r"row must be torch.int64 \(\), not torch.float32"):
        layout.pack(values | {"row": torch.tensor(7.0)}, memory)
