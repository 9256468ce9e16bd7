"""Whole MoE layers, gate included: ours, and other ways to compute the same on a CPU, each as strong as it can be made.

All but price routing choose by plain top-k.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.cpu import library
from kernels.ops import gate_scores, moe_experts, route_and_plan
from router.router import Router

Routed = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The experts alone: (x_TD, ids_TK, gates_TK) -> y_TD."""


class Weights(NamedTuple):
    """Of one layer."""

    gate_DE: Tensor
    up_ED2H: Tensor
    down_EHD: Tensor
    k: int


class Form(NamedTuple):
    """A way to compute the layer.

    Attributes:
        run: x_TD -> y_TD.
        routing: x_TD -> ids_TK, gates_TK that the last `run` used for these very tokens.
    """

    run: Callable[[Tensor], Tensor]
    routing: Callable[[Tensor], tuple[Tensor, Tensor]]


STATIC, DROPLESS = "static slots, price", "dropless, top-k"
STATIC_TORCH, DROPLESS_TORCH = f"{STATIC} (torch alone)", f"{DROPLESS} (torch alone)"
OURS = (STATIC, DROPLESS, STATIC_TORCH, DROPLESS_TORCH)
LOOP, GROUPED, SORTED, PADDED = "expert loop", "sort + grouped_mm", "sort + mm", "padded bmm"
COMPILED_GROUPED, COMPILED_PADDED = "torch.compile of grouped_mm", "torch.compile of padded bmm"
TORCH_FORMS = (LOOP, GROUPED, SORTED, PADDED, COMPILED_GROUPED, COMPILED_PADDED)
ONNX = "onnxruntime MoE"


def forms(w: Weights, *, with_compile: bool) -> tuple[dict[str, Form], dict[str, str]]:
    """Every form that runs here by name, and why the others do not."""
    made: dict[str, Form] = {STATIC: static_slots(w), DROPLESS: dropless(w)}
    if library.serves(w.up_ED2H):
        made |= {STATIC_TORCH: _torch_alone(static_slots(w)), DROPLESS_TORCH: _torch_alone(dropless(w))}
    made |= {name: _behind_top_k(w, make(w)) for name, make in TORCH.items()}
    missing: dict[str, str] = {}
    for name, make in COMPILED.items() if with_compile else ():
        if make is sorted_grouped and w.up_ED2H.dtype == torch.float32:
            missing[name] = "traces bfloat16 alone"
        else:
            made[name] = _behind_top_k(w, torch.compile(make(w)))
    if w.up_ED2H.dtype != torch.float32:
        missing[ONNX] = "its CPU kernel takes float32 alone"
    elif not (find_spec("onnxruntime") and find_spec("onnx")):
        missing[ONNX] = "onnxruntime and onnx are not installed"
    else:
        made[ONNX] = onnxruntime_moe(w)
    return made, missing


def static_slots(w: Weights) -> Form:
    """Ours: price routing, so that every expert has the same number of rows."""
    experts = w.gate_DE.shape[1]
    router, bias_E = Router("price", capacity_factor=1.0, layers=1, experts=experts), torch.zeros(experts)

    def run(x_TD: Tensor) -> Tensor:
        plan = router.route(0, gate_scores(x_TD, w.gate_DE), w.k, bias_E)
        return moe_experts(
            *(x_TD, plan.expert_ids_TK, plan.gates_TK, plan.rank_TK, plan.load_E, w.up_ED2H, w.down_EHD),
            capacity=router.static_capacity(len(x_TD), w.k),
        )

    def routing(x_TD: Tensor) -> tuple[Tensor, Tensor]:
        plan = router.last_plans[0]
        assert plan is not None
        return plan.expert_ids_TK, plan.gates_TK

    return Form(run, routing)


def dropless(w: Weights) -> Form:
    """Ours: plain top-k, as many rows as each expert gets."""

    def run(x_TD: Tensor) -> Tensor:
        _, ids_TK, gates_TK, rank_TK, load_E = route_and_plan(x_TD, w.gate_DE, None, None, w.k, None)
        return moe_experts(x_TD, ids_TK, gates_TK, rank_TK, load_E, w.up_ED2H, w.down_EHD, capacity=None)

    def routing(x_TD: Tensor) -> tuple[Tensor, Tensor]:  # in bfloat16 logits are often equal, and others choose others
        _, ids_TK, gates_TK, *_ = route_and_plan(x_TD, w.gate_DE, None, None, w.k, None)
        return ids_TK, gates_TK

    return Form(run, routing)


def _torch_alone(form: Form) -> Form:
    def run(x_TD: Tensor) -> Tensor:
        with library.torch_alone():
            return form.run(x_TD)

    def routing(x_TD: Tensor) -> tuple[Tensor, Tensor]:
        with library.torch_alone():
            return form.routing(x_TD)

    return Form(run, routing)


def _top_k(w: Weights, x_TD: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and gates by torch's own softmax and top-k."""
    scores_TK, ids_TK = torch.softmax(x_TD @ w.gate_DE, dim=1, dtype=torch.float32).topk(w.k, dim=1)
    return ids_TK, scores_TK / scores_TK.sum(dim=1, keepdim=True)


def _behind_top_k(w: Weights, routed: Routed) -> Form:
    return Form(lambda x_TD: routed(x_TD, *_top_k(w, x_TD)), lambda x_TD: _top_k(w, x_TD))


def _swiglu(up_N2H: Tensor) -> Tensor:
    gate_NH, value_NH = up_N2H.chunk(2, dim=-1)
    return F.silu(gate_NH) * value_NH


def _sort(ids_TK: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Slots by expert, and slots per expert."""
    ids_N = ids_TK.reshape(-1)
    return torch.argsort(ids_N, stable=True), torch.bincount(ids_N, minlength=experts)


def _sum(y_ND: Tensor, row_N: Tensor, gates_TK: Tensor) -> Tensor:
    """Weighted sum of each token's rows."""
    y_TKD = y_ND.index_select(0, row_N).view(*gates_TK.shape, -1)
    return torch.bmm(gates_TK[:, None].to(y_TKD.dtype), y_TKD).squeeze(1)


def _inverse(order_N: Tensor) -> Tensor:
    return torch.empty_like(order_N).scatter_(0, order_N, torch.arange(order_N.numel()))


def expert_loop(w: Weights) -> Routed:
    """One expert after the other: a mask, a gather and a scatter for each."""

    def run(x_TD: Tensor, ids_TK: Tensor, gates_TK: Tensor) -> Tensor:
        y_TD = torch.zeros_like(x_TD)
        for e, (up_D2H, down_HD) in enumerate(zip(w.up_ED2H, w.down_EHD, strict=True)):
            token_N, slot_N = torch.where(ids_TK == e)
            if token_N.numel():
                y_ND = _swiglu(x_TD.index_select(0, token_N) @ up_D2H) @ down_HD
                y_TD.index_add_(0, token_N, y_ND * gates_TK[token_N, slot_N, None].to(y_ND.dtype))
        return y_TD

    return run


def sorted_grouped(w: Weights) -> Routed:
    """Sort by expert, then two `grouped_mm`."""

    def run(x_TD: Tensor, ids_TK: Tensor, gates_TK: Tensor) -> Tensor:
        order_N, load_E = _sort(ids_TK, w.up_ED2H.shape[0])
        ends_E = load_E.cumsum(0).to(torch.int32)
        up_N2H = F.grouped_mm(x_TD.index_select(0, order_N // w.k), w.up_ED2H, offs=ends_E)
        return _sum(F.grouped_mm(_swiglu(up_N2H), w.down_EHD, offs=ends_E), _inverse(order_N), gates_TK)

    return run


def sorted_mm(w: Weights) -> Routed:
    """Sort by expert, then an expert at a time into slices of one buffer: hidden activations stay in the cache."""

    def run(x_TD: Tensor, ids_TK: Tensor, gates_TK: Tensor) -> Tensor:
        order_N, load_E = _sort(ids_TK, w.up_ED2H.shape[0])
        x_ND, start = x_TD.index_select(0, order_N // w.k), 0
        y_ND = torch.empty_like(x_ND)
        for e, load in enumerate(load_E.tolist()):
            if load:
                rows = slice(start, start + load)
                torch.mm(_swiglu(torch.mm(x_ND[rows], w.up_ED2H[e])), w.down_EHD[e], out=y_ND[rows])
            start += load
        return _sum(y_ND, _inverse(order_N), gates_TK)

    return run


def padded(w: Weights) -> Routed:
    """Every expert padded to the largest load, then two batched products."""
    experts, width, _ = w.up_ED2H.shape

    def run(x_TD: Tensor, ids_TK: Tensor, gates_TK: Tensor) -> Tensor:
        order_N, load_E = _sort(ids_TK, experts)
        rows, expert_N = int(load_E.max()), ids_TK.reshape(-1)[order_N]
        place_N = torch.arange(len(order_N)) - (load_E.cumsum(0) - load_E)[expert_N]
        slot_N = expert_N * rows + place_N
        x_SD = x_TD.new_zeros(experts * rows, width)
        x_SD[slot_N] = x_TD.index_select(0, order_N // w.k)
        y_ECD = torch.bmm(_swiglu(torch.bmm(x_SD.view(experts, rows, width), w.up_ED2H)), w.down_EHD)
        return _sum(y_ECD.view(-1, width), slot_N[_inverse(order_N)], gates_TK)

    return run


TORCH = {LOOP: expert_loop, GROUPED: sorted_grouped, SORTED: sorted_mm, PADDED: padded}
COMPILED = {COMPILED_GROUPED: sorted_grouped, COMPILED_PADDED: padded}


def onnxruntime_moe(w: Weights) -> Form:
    """The operator `com.microsoft.MoE`, which routes too; its threads do not spin."""
    onnx, ort = import_module("onnx"), import_module("onnxruntime")
    make, floats = onnx.helper, onnx.TensorProto.FLOAT
    gate_EDH, value_EDH = w.up_ED2H.chunk(2, dim=2)
    up_E2HD = torch.stack([gate_EDH, value_EDH], dim=3).flatten(2).transpose(1, 2)  # columns of the halves in turn
    constants = [("up", up_E2HD), ("down", w.down_EHD.transpose(1, 2))]
    node = make.make_node(
        *("MoE", ["x", "gate", "up", "", "down"], ["y"]),
        domain="com.microsoft",
        k=w.k,
        normalize_routing_weights=1,
        **{"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0},
    )
    width, experts = w.gate_DE.shape
    graph = make.make_graph(
        [node],
        "layer",
        [make.make_tensor_value_info(name, floats, ["T", n]) for name, n in (("x", width), ("gate", experts))],
        [make.make_tensor_value_info("y", floats, ["T", width])],
        [onnx.numpy_helper.from_array(tensor.contiguous().numpy(), name) for name, tensor in constants],
    )
    opsets = [make.make_opsetid("", 18), make.make_opsetid("com.microsoft", 1)]
    model = make.make_model(graph, opset_imports=opsets, ir_version=10)
    options: Any = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(x_TD: Tensor) -> Tensor:
        (y_TD,) = session.run(None, {"x": x_TD.numpy(), "gate": (x_TD @ w.gate_DE).numpy()})
        return torch.from_numpy(y_TD)

    return Form(run, lambda x_TD: _top_k(w, x_TD))
