"""Other ways to compute the same layer on a GPU, as rivals in one run. Those of other projects only where installed.

Each takes tokens, ids, gates and the weights, as `kernels.ops.moe_experts` does, and returns (T, D). Routing is the
same torch code for all of them. Weights in another layout are made before the clock starts.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Run = Callable[[Tensor, Tensor, Tensor], Tensor]


class Rival(NamedTuple):
    """A name, whether a CUDA graph can hold it, and how to make `run(x_TD, ids_TK, gates_TK)` for given weights.

    `make(w_up_ED2H, w_down_EHD, capacity)`; the capacity is the largest load, known beforehand: a favour to padding.
    """

    name: str
    in_graph: bool
    make: Callable[[Tensor, Tensor, int], Run]


def torch_route(x_TD: Tensor, gate_DE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ids (int64) and normalised gates by torch's own softmax and top-k."""
    scores_TK, ids_TK = torch.softmax(x_TD @ gate_DE, dim=1, dtype=torch.float32).topk(k, dim=1)
    return ids_TK, scores_TK / scores_TK.sum(dim=1, keepdim=True)


def _swiglu(up_N2H: Tensor) -> Tensor:
    gate_NH, value_NH = up_N2H.chunk(2, dim=-1)
    return F.silu(gate_NH) * value_NH


def expert_loop(w_up_ED2H: Tensor, w_down_EHD: Tensor, capacity: int) -> Run:
    """One expert after the other, as most readable code has it. Asks the device for every count."""

    def run(x_TD: Tensor, ids_TK: Tensor, gates_TK: Tensor) -> Tensor:
        y_TD = torch.zeros_like(x_TD)
        for e in range(w_up_ED2H.shape[0]):
            token_N, slot_N = (ids_TK == e).nonzero(as_tuple=True)
            y_ND = _swiglu(x_TD[token_N] @ w_up_ED2H[e]) @ w_down_EHD[e]
            y_TD.index_add_(0, token_N, y_ND * gates_TK[token_N, slot_N, None].to(y_ND.dtype))
        return y_TD

    return run


def sorted_grouped(w_up_ED2H: Tensor, w_down_EHD: Tensor, capacity: int) -> Run:
    """Sort by expert, two `grouped_mm`, sort back, sum."""
    experts = w_up_ED2H.shape[0]

    def run(x_TD: Tensor, ids_TK: Tensor, gates_TK: Tensor) -> Tensor:
        (tokens, k), ids_N = ids_TK.shape, ids_TK.reshape(-1)
        order_N = torch.argsort(ids_N, stable=True)
        load_E = torch.zeros(experts, dtype=torch.int64, device=ids_N.device)
        load_E = load_E.scatter_add(0, ids_N, torch.ones_like(ids_N))
        ends_E = load_E.cumsum(0).to(torch.int32)
        up_N2H = F.grouped_mm(x_TD[order_N // k], w_up_ED2H, offs=ends_E)
        y_ND = F.grouped_mm(_swiglu(up_N2H), w_down_EHD, offs=ends_E)
        back_N = torch.empty_like(order_N).scatter_(0, order_N, torch.arange(tokens * k, device=ids_N.device))
        return (y_ND[back_N].view(tokens, k, -1) * gates_TK[..., None].to(y_ND.dtype)).sum(dim=1)

    return run


def padded(w_up_ED2H: Tensor, w_down_EHD: Tensor, capacity: int) -> Run:
    """Every expert padded to the largest load, two batched products."""
    experts = w_up_ED2H.shape[0]

    def run(x_TD: Tensor, ids_TK: Tensor, gates_TK: Tensor) -> Tensor:
        (tokens, k), ids_N = ids_TK.shape, ids_TK.reshape(-1)
        hot_NE = F.one_hot(ids_N, experts)
        rank_N = (hot_NE.cumsum(0).gather(1, ids_N[:, None]) - 1)[:, 0]
        slot_N = ids_N * capacity + rank_N
        token_S = torch.zeros(experts * capacity, dtype=torch.int64, device=ids_N.device)
        token_S = token_S.scatter(0, slot_N, torch.arange(tokens * k, device=ids_N.device) // k)
        up_EC2H = torch.bmm(x_TD[token_S].view(experts, capacity, -1), w_up_ED2H)
        y_SD = torch.bmm(_swiglu(up_EC2H), w_down_EHD).view(experts * capacity, -1)
        return (y_SD[slot_N].view(tokens, k, -1) * gates_TK[..., None].to(y_SD.dtype)).sum(dim=1)

    return run


def compiled_grouped(w_up_ED2H: Tensor, w_down_EHD: Tensor, capacity: int) -> Run:
    """`sorted_grouped` by torch.compile."""
    run: Run = torch.compile(sorted_grouped(w_up_ED2H, w_down_EHD, capacity), dynamic=False)
    return run


def liger(w_up_ED2H: Tensor, w_down_EHD: Tensor, capacity: int) -> Run:
    """Liger-Kernel's fused MoE; its tuner picks among configurations in the first call."""
    function = import_module("liger_kernel.ops.fused_moe").LigerFusedMoEFunction

    up_E2HD, down_EDH = w_up_ED2H.transpose(1, 2).contiguous(), w_down_EHD.transpose(1, 2).contiguous()

    def run(x_TD: Tensor, ids_TK: Tensor, gates_TK: Tensor) -> Tensor:
        y_TD: Tensor = function.apply(x_TD, up_E2HD, down_EDH, ids_TK.to(torch.int32), gates_TK)
        return y_TD

    return run


def vllm(w_up_ED2H: Tensor, w_down_EHD: Tensor, capacity: int) -> Run:
    """vLLM's Triton layer with the configuration that it finds for this shape."""
    fused_experts = import_module("vllm.model_executor.layers.fused_moe").fused_experts

    up_E2HD, down_EDH = w_up_ED2H.transpose(1, 2).contiguous(), w_down_EHD.transpose(1, 2).contiguous()

    def run(x_TD: Tensor, ids_TK: Tensor, gates_TK: Tensor) -> Tensor:
        y_TD: Tensor = fused_experts(x_TD, up_E2HD, down_EDH, gates_TK, ids_TK.to(torch.int32))
        return y_TD

    return run


def scattermoe(w_up_ED2H: Tensor, w_down_EHD: Tensor, capacity: int) -> Run:
    """ScatterMoE's gated MLP."""
    experts, width, double = w_up_ED2H.shape
    mlp = import_module("scattermoe.mlp").GLUMLP(width, double // 2, experts, top_k=2)
    mlp = mlp.to(w_up_ED2H.device, w_up_ED2H.dtype)
    value_gate_ED2H = torch.cat(w_up_ED2H.chunk(2, dim=2)[::-1], dim=2)  # its halves stand the other way round
    mlp.experts.weight.data.copy_(value_gate_ED2H.transpose(1, 2))
    mlp.output_experts.weight.data.copy_(w_down_EHD.transpose(1, 2))

    def run(x_TD: Tensor, ids_TK: Tensor, gates_TK: Tensor) -> Tensor:
        mlp.top_k = ids_TK.shape[1]
        y_TD: Tensor = mlp(x_TD, gates_TK.to(x_TD.dtype), ids_TK)
        return y_TD

    return run


def installed() -> list[Rival]:
    """Every rival that can run here."""
    rivals = [
        Rival("expert loop", False, expert_loop),
        Rival("sort + grouped_mm", True, sorted_grouped),
        Rival("padded bmm", True, padded),
        Rival("torch.compile of grouped_mm", True, compiled_grouped),
    ]
    packages = [
        Rival("liger_kernel", False, liger),
        Rival("vllm", True, vllm),
        Rival("scattermoe", False, scattermoe),
    ]
    return rivals + [rival for rival in packages if find_spec(rival.name) is not None]
