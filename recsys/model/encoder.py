"""A user's history as vectors: a causal transformer over events (after SASRec, arXiv 1808.09781)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.model.config import ModelConfig
from recsys.model.dropout import dropout


@dataclass(frozen=True, slots=True)
class Encoded:
    """Histories, encoded. Position 0 is the begin token, position p >= 1 the p-th oldest event that was read.

    Attributes:
        user_BD: state after the newest event: what the user wants next.
        states_BLD: state after each event; anything finite where `mask_BL` is False.
        events_BLD: the events themselves as the encoder read them, without context.
        mask_BL: True for the begin token and every event.
    """

    user_BD: Tensor
    states_BLD: Tensor
    events_BLD: Tensor
    mask_BL: Tensor


def newest_first_in(history_BL: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Positions of the newest `longest` events of each row, oldest of them first, and which of them exist.

    Padding (0) may be anywhere in a row and never moves an event: the answer has no gaps, and its width depends
    on the longest row alone. Returns (columns_BL int64, mask_BL bool).
    """
    real_BL = history_BL != 0
    count_B = real_BL.sum(1)
    columns_BL = torch.argsort(real_BL.logical_not().to(torch.uint8), dim=1, stable=True)
    width = min(longest, history_BL.shape[1])
    slots_L = torch.arange(width, device=history_BL.device)
    start_B = (count_B - width).clamp(min=0)
    picked_BL = columns_BL.gather(1, start_B[:, None] + slots_L) if width else columns_BL[:, :0]
    return picked_BL, slots_L < count_B[:, None]


def causal_attention(q_BMLD: Tensor, k_BMLD: Tensor, v_BMLD: Tensor, age_bias_AM: Tensor | None = None) -> Tensor:
    """Softmax attention of each position over itself and those before it, for M heads.

    With `age_bias_AM` a score has row a of it added where it is for an event a positions back, the last row for all
    that are older (after T5, arXiv 1910.10683).

    In bfloat16 on a CPU the plain form: batched matrix products use its bfloat16 units, the fused kernel does not.
    """
    B, M, L, D = q_BMLD.shape
    narrow = q_BMLD.device.type == "cpu" and q_BMLD.dtype == torch.bfloat16
    if age_bias_AM is None and not narrow:
        return F.scaled_dot_product_attention(q_BMLD, k_BMLD, v_BMLD, is_causal=True)
    bias_MLL = q_BMLD.new_full((1, L, L), -torch.inf).triu_(1)
    if age_bias_AM is not None:
        places_L = torch.arange(L, device=q_BMLD.device)
        age_LL = (places_L[:, None] - places_L).clamp(0, len(age_bias_AM) - 1)
        bias_MLL = bias_MLL + F.embedding(age_LL, age_bias_AM.to(q_BMLD.dtype)).permute(2, 0, 1)
    if not narrow:
        return F.scaled_dot_product_attention(q_BMLD, k_BMLD, v_BMLD, attn_mask=bias_MLL)
    q_ALD, k_ALD, v_ALD = (x.reshape(B * M, L, D) for x in (q_BMLD, k_BMLD, v_BMLD))
    bias_ALL = bias_MLL.expand(B, M, L, L).reshape(B * M, L, L)
    scores_ALL = torch.baddbmm(bias_ALL, q_ALD, k_ALD.transpose(1, 2), alpha=D**-0.5)
    return (scores_ALL.softmax(-1) @ v_ALD).view(B, M, L, D)


class EncoderBlock(nn.Module):
    """Pre-norm causal self-attention and a feed-forward layer, both residual.

    Gated, what attention found is weighed by the event itself, value by value (HSTU, arXiv 2402.17152), and the
    feed-forward layer is SwiGLU (arXiv 2002.05202) of as many weights as the plain one.
    """

    age_bias_AM: Tensor | None

    def __init__(self, width: int, heads: int, dropout: float, gated: bool = False, ages: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.gated = gated
        self.register_parameter("age_bias_AM", nn.Parameter(torch.zeros(ages, heads)) if ages else None)
        hidden = -(-4 * width // 3) if gated else 2 * width
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden_in = nn.Linear(width, 2 * hidden if gated else hidden)
        self.hidden_out = nn.Linear(hidden, width)
        if gated:
            self.attention_gate = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        normed_BLD = self.attention_norm(x_BLD)
        attended_BLD = self._attend(normed_BLD)
        if self.gated:
            attended_BLD = attended_BLD * F.silu(self.attention_gate(normed_BLD))
        x_BLD = x_BLD + self._drop(self.attention_out(attended_BLD))
        hidden_BLH = self.hidden_in(self.hidden_norm(x_BLD))
        if self.gated:
            gate_BLH, value_BLH = hidden_BLH.chunk(2, dim=-1)
            hidden_BLH = F.silu(gate_BLH) * value_BLH
        else:
            hidden_BLH = F.gelu(hidden_BLH)
        return x_BLD + self._drop(self.hidden_out(hidden_BLH))

    def _attend(self, x_BLD: Tensor) -> Tensor:
        B, L, D = x_BLD.shape
        q, k, v = self.query_key_value(x_BLD).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        return causal_attention(q, k, v, self.age_bias_AM).transpose(1, 2).reshape(B, L, D)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class SequenceEncoder(nn.Module):
    """Events -> states. Reads the newest `config.history` events; a begin token stands before them.

    Events are moved to the front before anything else, so causal attention alone hides the padding, and neither its
    amount nor other rows of the batch can reach a result.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.history = config.history
        self.dropout = config.dropout
        self.begin_D = nn.Parameter(torch.zeros(config.width))
        self.kinds = nn.Embedding(config.kinds + 1, config.width)
        self.positions = nn.Embedding(config.history + 1, config.width)
        self.input_norm = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(
            EncoderBlock(config.width, config.encoder_heads, config.dropout, config.encoder_gated, config.encoder_ages)
            for _ in range(config.encoder_layers)
        )
        self.final_norm = nn.LayerNorm(config.width)
        for embedding in (self.begin_D, self.kinds.weight, self.positions.weight):
            nn.init.normal_(embedding, std=0.02)

    def forward(self, history_BL: Tensor, kinds_BL: Tensor, table_ID: Tensor, *, compact: bool = False) -> Encoded:
        """See `Recommender.encode`."""
        B = history_BL.shape[0]
        if compact:
            mask_BL = history_BL != 0
        else:
            columns_BL, mask_BL = newest_first_in(history_BL, self.history)
            history_BL, kinds_BL = history_BL.gather(1, columns_BL), kinds_BL.gather(1, columns_BL)
        events_BLD = F.embedding(history_BL, table_ID) + self.kinds(kinds_BL)
        events_BLD = torch.cat([self.begin_D.expand(B, 1, -1), events_BLD], dim=1)
        mask_BL = F.pad(mask_BL, (1, 0), value=True)
        x_BLD = self.input_norm(events_BLD + self.positions.weight[: events_BLD.shape[1]])
        x_BLD = dropout(x_BLD, self.dropout, self.training)
        for block in self.blocks:
            x_BLD = block(x_BLD)
        states_BLD = self.final_norm(x_BLD)
        newest_B = mask_BL.sum(1) - 1
        user_BD = states_BLD[torch.arange(B, device=newest_B.device), newest_B]
        return Encoded(user_BD=user_BD, states_BLD=states_BLD, events_BLD=events_BLD, mask_BL=mask_BL)
