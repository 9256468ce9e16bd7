"""Selecting: the k largest of a row, the k-th largest of a row or column, and the row of a slot inside its expert.

All of it is exact, deterministic and without gradient. On a CPU numpy's vector sorts and partitions do the work where
numpy is installed (5-50x faster than the same torch calls on these shapes); everywhere else torch does, with equal
results.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.cpu import library

try:  # numpy comes with the `engine` extra; torch alone is enough to be right
    import numpy as np
except ModuleNotFoundError:  # pragma: no cover
    np = None  # type: ignore[assignment]

_MANY = 4  # above this many picks per row, one partial sort is cheaper than repeated maxima


def _numpy_serves(tensor: Tensor) -> bool:
    return np is not None and tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


def choose(
    scores_TE: Tensor,
    k: int,
    *,
    bias_E: Tensor | None = None,
    prices_E: Tensor | None = None,
    allowed_E: Tensor | None = None,
) -> Tensor:
    """The `k` best experts of each token by `score + bias - price`, best first, int64 (T, K).

    Equal values go to the lower expert number (for k <= 4). Where `allowed_E` is False an expert is never chosen; a
    token with fewer than `k` allowed experts gets -1 in the slots left over.

    Raises:
        ValueError: `k` outside 1..E.
    """
    tokens, experts = scores_TE.shape
    if not 1 <= k <= experts:
        raise ValueError(f"k must be in 1..{experts} (the number of experts), not {k}")
    keys_TE = scores_TE.detach()
    if bias_E is not None:
        keys_TE = keys_TE + bias_E
    if prices_E is not None:
        keys_TE = keys_TE - prices_E
    if allowed_E is not None:
        keys_TE = keys_TE.masked_fill(~allowed_E, -torch.inf)
    if k > _MANY:
        keys_TK, ids_TK = keys_TE.topk(k, dim=1)
        return ids_TK if allowed_E is None else ids_TK.masked_fill(keys_TK == -torch.inf, -1)
    if bias_E is None and prices_E is None and allowed_E is None and k > 1:
        keys_TE = keys_TE.clone()  # still the caller's memory
    ids_TK = torch.empty(tokens, k, dtype=torch.int64, device=scores_TE.device)
    for slot in range(k):
        key_T, id_T = keys_TE.max(dim=1)
        ids_TK[:, slot] = id_T if allowed_E is None else id_T.masked_fill(key_T == -torch.inf, -1)
        if slot + 1 < k:
            keys_TE.scatter_(1, id_T[:, None], -torch.inf)
    return ids_TK


@torch.library.custom_op("moe::rank_slots", mutates_args=())
def _rank_slots(expert_ids_TK: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    if library.serves_plans(expert_ids_TK):
        return library.rank_slots(expert_ids_TK, experts)
    keys_N = expert_ids_TK.reshape(-1) + 1  # bucket 0 holds the unused slots
    slots = keys_N.numel()
    if np is not None and keys_N.device.type == "cpu":
        small_N = keys_N.numpy().astype(np.uint8 if experts < 255 else np.uint16 if experts < 65535 else np.int64)
        order_N = torch.from_numpy(np.argsort(small_N, kind="stable"))  # radix sort for the small types
    else:
        order_N = torch.argsort(keys_N, stable=True)
    # Not `bincount`: on a CUDA device it reads the largest key back.
    count_B = keys_N.new_zeros(experts + 1).scatter_add_(0, keys_N, torch.ones_like(keys_N))
    start_B = count_B.cumsum(0) - count_B
    rank_N = torch.empty_like(keys_N)
    rank_N[order_N] = torch.arange(slots, device=keys_N.device) - start_B.repeat_interleave(count_B, output_size=slots)
    return rank_N.masked_fill_(keys_N == 0, -1).view(expert_ids_TK.shape), count_B[1:].clone()


@_rank_slots.register_fake
def _(expert_ids_TK: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    return expert_ids_TK.new_empty(expert_ids_TK.shape), expert_ids_TK.new_empty(experts)


def rank_slots(expert_ids_TK: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Number the slots of each expert 0, 1, 2, ... in token order.

    Args:
        expert_ids_TK: int64, -1 = slot not used.
        experts: how many experts there are.

    Returns:
        `rank_TK` (-1 where not used) and `load_E`, the number of slots per expert; both int64.
    """
    return _rank_slots(expert_ids_TK, experts)


def normalised_gates(scores_TE: Tensor, expert_ids_TK: Tensor) -> Tensor:
    """Scores of the chosen experts divided by their sum; 0 where the slot is not used. Differentiable in the scores.

    A token whose chosen scores are all 0 gets equal weights.
    """
    # The tiny term gives equal weights where all scores are 0, and is lost in rounding everywhere else.
    chosen_TK = (scores_TE.gather(1, expert_ids_TK.clamp_min(0)) + 1e-30) * (expert_ids_TK >= 0)
    return chosen_TK / chosen_TK.sum(dim=1, keepdim=True).clamp_min(1e-30)


def split_rows(keys_TE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest values of each row in no order, (T, K), and the largest of the others, (T,).

    -inf if there is none.
    """
    tokens, experts = keys_TE.shape
    if k >= experts:
        return keys_TE, keys_TE.new_full((tokens,), -torch.inf)
    if _numpy_serves(keys_TE):
        parted_TE = torch.from_numpy(np.partition(keys_TE.numpy(), experts - k - 1, axis=1))
        return parted_TE[:, experts - k :], parted_TE[:, experts - k - 1]
    best_TK = keys_TE.topk(k + 1, dim=1).values
    return best_TK[:, :k], best_TK[:, k]


def kth_largest_of_rows(keys_ET: Tensor, kth_E: list[int]) -> Tensor:
    """The `kth_E[e]`-th largest value of row `e`, counted from 1; (E,). 0 gives +inf, more than T gives -inf."""
    tokens = keys_ET.shape[1]
    result_E = torch.tensor([torch.inf if kth <= 0 else -torch.inf for kth in kth_E], dtype=keys_ET.dtype).to(
        keys_ET.device
    )
    inside = [e for e, kth in enumerate(kth_E) if 1 <= kth <= tokens]
    places = sorted({tokens - kth_E[e] for e in inside})
    if not places:
        return result_E
    if not _numpy_serves(keys_ET):
        for e in inside:
            result_E[e] = keys_ET[e].kthvalue(tokens - kth_E[e] + 1).values
        return result_E
    if len(places) == 1:  # equal capacities: one partition of all rows
        column_E = torch.from_numpy(np.partition(keys_ET.numpy(), places[0], axis=1)[:, places[0]])
        if len(inside) == len(kth_E):
            return column_E
        result_E[inside] = column_E[inside]
        return result_E
    keys = keys_ET.numpy()
    for e in inside:
        place = tokens - kth_E[e]
        result_E[e] = float(np.partition(keys[e], place)[place])
    return result_E
