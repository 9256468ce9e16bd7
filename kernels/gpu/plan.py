"""Planning: the row of each slot in the expert-ordered layout, drops beyond capacity, and the tiles of the experts.

Grid: one program per block of tokens of `route`. Each sums the counts of all blocks (small: blocks*E integers), so
that no second pass and no atomics are needed; each writes its share of the tile table.
Reads ids, gates, rank (T, K) and counts (B, E); writes `slot_TK`, `gates_TK`, `token_S`, `tiles_M3`, `rank_TK`,
`load_E`. Bytes: 12*T*K + blocks^2*E*4 (from cache) in, 16*T*K + 12*M out, M = T*K // BM + E tiles at most, known on
the host.
Rows of expert e stand together in token order. Beyond an expert's capacity the later tokens lose their slots.
Ids, ranks and counts are taken on trust: what does not fit together is read and written out of bounds. With
`KERNELS_CHECKED=1` in the environment they are looked at first, which waits for the device; the tests do it.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.dot import power_of_two

NO_LIMIT = 2**31 - 1
CHECKED = os.environ.get("KERNELS_CHECKED") == "1"


class Plan(NamedTuple):
    """Where every slot is computed.

    Attributes:
        slot_TK: row of the slot, int32; -1 = not used or dropped.
        gates_TK: gates of the kept slots, float32; 0 where dropped.
        token_S: token of each row, int32; rows past the last kept slot are never written or read.
        tiles_M3: (expert, first row, last row + 1) of each tile of at most `rows` rows, int32; expert -1 = no tile.
        rank_TK: row of the slot among those of its expert, int32; -1 = not used or dropped.
        load_E: kept slots per expert, int32.
        rows: rows per tile.
    """

    slot_TK: Tensor
    gates_TK: Tensor
    token_S: Tensor
    tiles_M3: Tensor
    rank_TK: Tensor
    load_E: Tensor
    rows: int


@triton.jit
def _plan(ids, gates, rank, counts, slot, kept_gates, order, tiles, ranks, loads, tokens, blocks, capacity, most_tiles,
          E: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BE: tl.constexpr, BM: tl.constexpr,
          BW: tl.constexpr, WHOLE_RANKS: tl.constexpr, RENORMALISE: tl.constexpr):  # fmt: skip
    block, expert = tl.program_id(0), tl.arange(0, BE)
    total, before = tl.zeros([BE], tl.int32), tl.zeros([BE], tl.int32)
    b0 = 0
    while b0 < blocks:  # not `range`: the interpreter takes no run-time bounds there
        b = b0 + tl.arange(0, 32)
        inside = (b < blocks)[:, None] & (expert < E)[None, :]
        count = tl.load(counts + b[:, None] * E + expert[None, :], mask=inside, other=0).to(tl.int32)
        total += tl.sum(count, axis=0)
        before += tl.sum(tl.where((b < block)[:, None], count, 0), axis=0)
        b0 += 32
    if WHOLE_RANKS:
        before = tl.zeros([BE], tl.int32)
    kept = tl.minimum(total, capacity)
    start = tl.cumsum(kept, axis=0) - kept
    tl.store(loads + expert, kept, mask=(expert < E) & (block == 0))

    token, j = block * BT + tl.arange(0, BT), tl.arange(0, BK)
    inside = (token < tokens)[:, None] & (j < K)[None, :]
    place = token.to(tl.int64)[:, None] * K + j[None, :]
    id = tl.load(ids + place, mask=inside, other=-1).to(tl.int32)
    flat = tl.reshape(tl.maximum(id, 0), [BT * BK])
    row = tl.load(rank + place, mask=inside, other=0).to(tl.int32)
    row += tl.reshape(tl.gather(before, flat, 0), [BT, BK])
    used = (id >= 0) & (row < capacity)
    tl.store(ranks + place, tl.where(used, row, -1), mask=inside)
    row += tl.reshape(tl.gather(start, flat, 0), [BT, BK])
    gate = tl.where(used, tl.load(gates + place, mask=inside, other=0.0).to(tl.float32), 0.0)
    if RENORMALISE:
        gate = gate / tl.maximum(tl.sum(gate, axis=1), 1e-30)[:, None]
    tl.store(slot + place, tl.where(used, row, -1), mask=inside)
    tl.store(kept_gates + place, gate, mask=inside)
    tl.store(order + row, tl.broadcast_to(token[:, None], [BT, BK]), mask=used)

    tile_end = tl.cumsum((kept + BM - 1) // BM, axis=0)
    tile = block * BW + tl.arange(0, BW)
    owner = tl.sum((tile_end[None, :] <= tile[:, None]).to(tl.int32), axis=1)  # experts whose tiles all come before
    there = owner < BE
    owner = tl.minimum(owner, BE - 1)
    first_tile = tl.gather(tile_end - (kept + BM - 1) // BM, owner, 0)
    first = tl.gather(start, owner, 0) + (tile - first_tile) * BM
    last = tl.minimum(first + BM, tl.gather(start + kept, owner, 0))
    inside = tile < most_tiles
    tl.store(tiles + tile * 3, tl.where(there, owner, -1), mask=inside)
    tl.store(tiles + tile * 3 + 1, first, mask=inside)
    tl.store(tiles + tile * 3 + 2, last, mask=inside)


def plan(ids_TK: Tensor, gates_TK: Tensor, rank_TK: Tensor, counts_BE: Tensor, rows: int, *, block: int = 128,
         capacity: int | None = None, whole_ranks: bool = False,
         renormalise: bool = False) -> Plan:  # fmt: skip
    """Give each slot its row; tiles of `rows` rows.

    Args:
        counts_BE: slots per block of `block` tokens and expert; with `whole_ranks` any split of the loads.
        capacity: slots per expert, those beyond it are dropped; None: no limit.
        whole_ranks: `rank_TK` counts from the first token of the batch, not of the block.
        renormalise: let the gates of a token's kept slots sum to 1 again.

    Raises:
        ValueError: in the checked mode, for ids, ranks and counts that do not fit together.
    """
    (tokens, k), experts = ids_TK.shape, counts_BE.shape[1]
    if CHECKED and not (ids_TK.is_cuda and torch.cuda.is_current_stream_capturing()):
        _check(ids_TK, rank_TK, counts_BE, max(1, tokens) if whole_ranks else block)
    new = ids_TK.new_empty
    most_tiles = tokens * k // rows + experts
    made = Plan(new(tokens, k, dtype=torch.int32), new(tokens, k, dtype=torch.float32),
                new(tokens * k, dtype=torch.int32), new(most_tiles, 3, dtype=torch.int32),
                new(tokens, k, dtype=torch.int32), new(experts, dtype=torch.int32), rows)  # fmt: skip
    if tokens:
        blocks = triton.cdiv(tokens, block)
        _plan[(blocks,)](
            ids_TK, gates_TK, rank_TK, counts_BE, *made[:6], tokens, counts_BE.shape[0],
            NO_LIMIT if capacity is None else capacity, most_tiles,
            E=experts, K=k, BT=block, BK=power_of_two(k, 1), BE=power_of_two(experts), BM=rows,
            BW=power_of_two(triton.cdiv(most_tiles, blocks), 1), WHOLE_RANKS=whole_ranks,
            RENORMALISE=renormalise, num_warps=4,
        )  # fmt: skip
    else:
        made.load_E.zero_()
    return made


def _check(ids_TK: Tensor, rank_TK: Tensor, counts_BE: Tensor, block: int) -> None:
    """Of each block and expert the ranks must be 0, 1, ... below its count."""
    (tokens, k), experts = ids_TK.shape, counts_BE.shape[1]
    if bool(((ids_TK < -1) | (ids_TK >= experts)).any()):
        raise ValueError(f"ids: must be from -1 to {experts - 1}, found {int(ids_TK.min())} to {int(ids_TK.max())}")
    blocks = triton.cdiv(tokens, block)
    count_N = counts_BE.long().sum(0) if blocks <= 1 else counts_BE.long().flatten()
    used_TK = ids_TK >= 0
    block_TK = (torch.arange(tokens, device=ids_TK.device) // block)[:, None].expand(tokens, k)
    place_S, rank_S = (block_TK * experts + ids_TK)[used_TK], rank_TK[used_TK]
    if not torch.equal(torch.bincount(place_S, minlength=len(count_N)), count_N):
        raise ValueError("counts: must be the slots per block and expert that the ids have")
    inside = bool(((rank_S >= 0) & (rank_S < count_N[place_S])).all())
    row_S = (count_N.cumsum(0) - count_N)[place_S] + rank_S
    if not inside or len(row_S.unique()) < len(row_S):
        raise ValueError("rank: must be 0, 1, ... for the slots of each block and expert")
