"""The small ranker that every server runs: two embeddings, a gate, four experts of which each candidate uses two.

    score(u, i) = sum over the two best experts e of softmax(gate) * w2_e . relu(W1_e [u; i] + b_e)

The split form is exact: W1 [u; i] = Wu u + Wi i, so the items' half is a table that is worked out once, and so is the
users'. It is a change of the model that any server could make, so servers are compared by the plain form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.bench.serving.questions import ITEMS, TOP, USERS

WIDTH, EXPERTS, HIDDEN, K = 64, 4, 32, 2
CHUNK = 8  # requests per forward pass: the fastest on a CPU, where more spill out of the second-level cache


class SmallRanker:
    """Random weights of a fixed seed. One thread; several processes share nothing.

    Args:
        split: the first layer as two tables.
    """

    def __init__(self, *, split: bool = False) -> None:
        torch.set_num_threads(1)
        seeded = torch.Generator().manual_seed(0)

        def weight(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=seeded) * 0.1

        users_UD, items_ID = weight(USERS, WIDTH), weight(ITEMS, WIDTH)
        first_DF, self._bias_F = weight(2 * WIDTH, EXPERTS * HIDDEN + EXPERTS), weight(EXPERTS * HIDDEN + EXPERTS)
        self._second_EH = weight(EXPERTS, HIDDEN)
        self._split = split
        if split:
            self._users_UX = torch.addmm(self._bias_F, users_UD, first_DF[:WIDTH])
            self._items_IX = items_ID @ first_DF[WIDTH:]
        else:
            self._users_UX, self._items_IX, self._first_DF = users_UD, items_ID, first_DF

    @torch.inference_mode()
    def best(self, users: Sequence[int], items: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[list[float]]]:
        """The best items of each request and their scores, best first. All requests have equally many items."""
        best: list[list[int]] = []
        scores: list[list[float]] = []
        for start in range(0, len(users), CHUNK):
            users_B = torch.tensor(users[start : start + CHUNK])
            items_BN = torch.tensor(items[start : start + CHUNK])
            scores_BT, positions_BT = self.scores(users_B, items_BN).topk(TOP, dim=1)
            best += items_BN.gather(1, positions_BT).tolist()
            scores += scores_BT.tolist()
        return best, scores

    def scores(self, users_B: Tensor, items_BN: Tensor) -> Tensor:
        """scores_BN."""
        B, N = items_BN.shape
        hidden_TF = self._first(users_B, items_BN).view(B * N, -1)
        experts_TEH = hidden_TF[:, : EXPERTS * HIDDEN].relu().view(B * N, EXPERTS, HIDDEN)
        outputs_TE = (experts_TEH * self._second_EH).sum(-1)
        gates_TK, chosen_TK = hidden_TF[:, EXPERTS * HIDDEN :].topk(K, dim=1)
        return (gates_TK.softmax(1) * outputs_TE.gather(1, chosen_TK)).sum(1).view(B, N)

    def _first(self, users_B: Tensor, items_BN: Tensor) -> Tensor:
        users_BNX = self._users_UX[users_B][:, None].expand(-1, items_BN.shape[1], -1)
        items_BNX = torch.nn.functional.embedding(items_BN, self._items_IX)
        if self._split:
            return items_BNX + users_BNX
        pairs_TX = torch.cat([users_BNX, items_BNX], dim=-1).view(-1, 2 * WIDTH)
        return torch.addmm(self._bias_F, pairs_TX, self._first_DF)
