"""The definition of every kernel, in plain torch: any float type, no cleverness. Tests hold every fast form to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gate_scores(x_TD: Tensor, gate_DE: Tensor) -> Tensor:
    """Softmax over the experts of `x @ gate`."""
    return torch.softmax(x_TD @ gate_DE, dim=1)


def swiglu(x_ND: Tensor, w_up_D2H: Tensor, w_down_HD: Tensor) -> Tensor:
    """`(silu(x @ W_gate) * (x @ W_value)) @ W_down`, where `w_up = [W_gate, W_value]`."""
    gate_NH, value_NH = (x_ND @ w_up_D2H).chunk(2, dim=1)
    return (F.silu(gate_NH) * value_NH) @ w_down_HD


def rank_slots(expert_ids_TK: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """One slot after the other."""
    rank_TK, load = torch.full_like(expert_ids_TK, -1), [0] * experts
    for token, row in enumerate(expert_ids_TK.tolist()):
        for slot, expert in enumerate(row):
            if expert >= 0:
                rank_TK[token, slot] = load[expert]
                load[expert] += 1
    return rank_TK, torch.tensor(load, dtype=torch.int64)


def moe_experts(x_TD: Tensor, expert_ids_TK: Tensor, gates_TK: Tensor, w_up_ED2H: Tensor, w_down_EHD: Tensor) -> Tensor:
    """Sum over the used slots of gate * SwiGLU expert; one token and slot after the other."""
    rows = []
    for token, experts in enumerate(expert_ids_TK.tolist()):
        y_D = torch.zeros_like(w_down_EHD[0, 0])
        for slot, expert in enumerate(experts):
            if expert >= 0:
                out_1D = swiglu(x_TD[token : token + 1], w_up_ED2H[expert], w_down_EHD[expert])
                y_D = y_D + gates_TK[token, slot] * out_1D[0]
        rows.append(y_D)
    return torch.stack(rows) if rows else x_TD.new_zeros(x_TD.shape)
