"""Planning: rows, drops and tiles against a plan made one slot after the other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kernels import reference
from kernels.gpu.plan import Plan, plan


def blocks_of(ids_TK: Tensor, experts: int, block: int) -> tuple[Tensor, Tensor]:
    """Ranks inside blocks of tokens, and counts per block."""
    parts = [reference.rank_slots(part, experts) for part in ids_TK.split(block)]
    return torch.cat([rank for rank, _ in parts]), torch.stack([count for _, count in parts])


def check(made: Plan, ids_TK: Tensor, experts: int, capacity: int) -> None:
    """Every kept slot has its row, later tokens are dropped first, tiles cover each row once."""
    rank_TK, load_E = reference.rank_slots(ids_TK, experts)
    kept = load_E.clamp(max=capacity).tolist()
    assert made.load_E.tolist() == kept
    assert torch.equal(made.rank_TK.cpu().long(), rank_TK.masked_fill(rank_TK >= capacity, -1))
    start = [sum(kept[:e]) for e in range(len(kept))]
    slot_TK, token_S = made.slot_TK.cpu(), made.token_S.cpu()
    for token, ids in enumerate(ids_TK.tolist()):
        for j, expert in enumerate(ids):
            used = expert >= 0 and int(rank_TK[token, j]) < capacity
            assert int(slot_TK[token, j]) == (start[expert] + int(rank_TK[token, j]) if used else -1)
            if used:
                assert int(token_S[slot_TK[token, j]]) == token
    owner = {}
    for expert, first, last in made.tiles_M3.tolist():
        if expert >= 0:
            assert 0 < last - first <= made.rows
            for row in range(first, last):
                assert owner.setdefault(row, expert) == expert
    assert owner == {start[e] + i: e for e in range(len(kept)) for i in range(kept[e])}
    assert sum(last - first for e, first, last in made.tiles_M3.tolist() if e >= 0) == sum(kept)


@given(
    tokens=st.integers(1, 200),
    experts=st.sampled_from([1, 2, 5, 17]),
    k=st.integers(1, 3),
    rows=st.sampled_from([16, 64]),
    block=st.sampled_from([16, 64]),
    whole=st.booleans(),
    limited=st.booleans(),
    seed=st.integers(0, 99),
)
def test_plan(
    device: str, tokens: int, experts: int, k: int, rows: int, block: int, whole: bool, limited: bool, seed: int
) -> None:
    draws = torch.Generator().manual_seed(seed)
    k = min(k, experts)
    ids_TK = torch.rand(tokens, experts, generator=draws).topk(k, dim=1).indices
    ids_TK[torch.rand(tokens, k, generator=draws) < 0.2] = -1
    rank_TK, counts_BE = blocks_of(ids_TK, experts, tokens if whole else block)
    capacity = tokens * k // (2 * experts) if limited else None
    gates_TK = torch.rand(tokens, k, generator=draws) + 0.1
    arguments = [t.to(device) for t in (ids_TK, gates_TK, rank_TK, counts_BE)]
    made = plan(*arguments, rows, block=block, capacity=capacity, whole_ranks=whole, renormalise=True)
    check(made, ids_TK, experts, tokens * k if capacity is None else capacity)
    kept_TK = (made.slot_TK >= 0).cpu()
    expected_TK = gates_TK * kept_TK / (gates_TK * kept_TK).sum(1, keepdim=True).clamp_min(1e-30)
    assert torch.allclose(made.gates_TK.cpu(), expected_TK, rtol=1e-6, atol=0)


def test_every_slot_to_one_expert(device: str) -> None:
    ids_TK = torch.full((150, 1), 3)
    rank_TK, counts_BE = blocks_of(ids_TK, 9, 32)
    gates_TK = torch.full((150, 1), 0.25)
    made = plan(*(t.to(device) for t in (ids_TK, gates_TK, rank_TK, counts_BE)), 16, block=32)
    check(made, ids_TK, 9, 150)
    assert torch.equal(made.gates_TK.cpu(), gates_TK)


def test_no_tokens(device: str) -> None:
    empty = torch.empty(0, 2, dtype=torch.int32, device=device)
    made = plan(empty, empty.float(), empty, torch.zeros(1, 4, dtype=torch.int32, device=device), 16)
    assert made.slot_TK.shape == (0, 2)
    assert made.token_S.shape == (0,)
    assert made.load_E.tolist() == [0] * 4


@pytest.mark.parametrize("whole", [False, True], ids=["blocks", "whole"])
@pytest.mark.parametrize(
    ("part", "value", "what"),
    [
        ("ids", 4, "ids: must be from -1 to 3, found .* to 4"),
        ("ids", -2, "ids: must be from -1 to 3, found -2"),
        ("rank", 60, "rank: must be 0, 1"),
        ("rank", -1, "rank: must be 0, 1"),
        ("counts", 9, "counts: must be the slots"),
    ],
)
def test_what_would_write_out_of_bounds_is_refused_where_it_is_checked(
    device: str, whole: bool, part: str, value: int, what: str
) -> None:
    ids_TK = torch.arange(80).view(40, 2) % 4
    rank_TK, counts_BE = blocks_of(ids_TK, 4, 40 if whole else 16)
    given = {"ids": ids_TK, "rank": rank_TK, "counts": counts_BE}
    given[part][0, 0] = value
    with pytest.raises(ValueError, match=what):
        plan(
            ids_TK.to(device), torch.ones(40, 2, device=device), rank_TK.to(device), counts_BE.to(device), 16,
            block=16, whole_ranks=whole,
        )  # fmt: skip
