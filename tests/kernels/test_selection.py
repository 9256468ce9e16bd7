"""Selecting: choice, ranks and order statistics against their definitions, with and without numpy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import ops, reference, selection
from kernels.cpu import library


@pytest.fixture(params=["numpy", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(library, "_wanted", False)
    if request.param == "torch":
        monkeypatch.setattr(selection, "np", None)
    return str(request.param)


@pytest.mark.parametrize("experts", [1, 3, 8, 64, 300])
@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_choose_is_topk(experts: int, k: int) -> None:
    scores_TE = torch.rand(50, experts, generator=torch.Generator().manual_seed(k))
    if k > experts:
        with pytest.raises(ValueError, match=f"k must be in 1..{experts}"):
            ops.choose(scores_TE, k)
        return
    before = scores_TE.clone()
    assert torch.equal(ops.choose(scores_TE, k), scores_TE.topk(k, dim=1).indices)
    assert torch.equal(scores_TE, before)


def test_choose_by_bias_and_price_breaks_ties_to_the_lower_expert_and_skips_the_forbidden() -> None:
    scores_TE = torch.full((4, 6), 0.5)
    assert ops.choose(scores_TE, 3).tolist() == [[0, 1, 2]] * 4
    bias_E = torch.tensor([0, 0, 0, 1.0, 0, 0])
    prices_E = torch.tensor([1.0, 0, 0, 0, 0, 0])
    assert ops.choose(scores_TE, 2, bias_E=bias_E, prices_E=prices_E).tolist() == [[3, 1]] * 4
    allowed_E = torch.tensor([False, False, True, False, False, False])
    assert ops.choose(scores_TE, 2, allowed_E=allowed_E).tolist() == [[2, -1]] * 4
    assert ops.choose(scores_TE, 6, allowed_E=allowed_E).sum(dim=1).tolist() == [-3] * 4


@given(
    tokens=st.integers(0, 300),
    experts=st.sampled_from([1, 2, 7, 16, 256, 300]),
    k=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_rank_slots_is_its_definition(in_form: Callable, tokens: int, experts: int, k: int, seed: int) -> None:
    ids_TK = torch.randint(-1, experts, (tokens, k), generator=torch.Generator().manual_seed(seed))
    with in_form():
        rank_TK, load_E = ops.rank_slots(ids_TK, experts)
    expected_TK, expected_E = reference.rank_slots(ids_TK, experts)
    assert torch.equal(rank_TK, expected_TK)
    assert torch.equal(load_E, expected_E)


@pytest.mark.parametrize("experts", [5, 300])
def test_rank_slots_is_the_same_without_numpy(backend: str, experts: int) -> None:
    ids_TK = torch.randint(-1, experts, (200, 2), generator=torch.Generator().manual_seed(1))
    rank_TK, load_E = ops.rank_slots(ids_TK, experts)
    assert torch.equal(rank_TK, reference.rank_slots(ids_TK, experts)[0])
    assert int(load_E.sum()) == int((ids_TK >= 0).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 2, 4, 7, 8])
def test_split_rows(backend: str, k: int, dtype: torch.dtype) -> None:
    keys_TE = torch.rand(40, 8, dtype=dtype, generator=torch.Generator().manual_seed(k))
    sorted_TE = keys_TE.sort(dim=1, descending=True).values
    best_TK, next_T = ops.split_rows(keys_TE, k)
    assert torch.equal(best_TK.sort(dim=1, descending=True).values, sorted_TE[:, :k])
    assert torch.equal(next_T, sorted_TE[:, k] if k < 8 else torch.full((40,), -torch.inf, dtype=dtype))


@pytest.mark.parametrize("kth", [[3, 3, 3, 3], [1, 2, 30, 7], [0, 31, 5, 5], [0, 0, 31, 99]])
def test_kth_largest_of_rows(backend: str, kth: list[int]) -> None:
    keys_ET = torch.rand(4, 30, generator=torch.Generator().manual_seed(3))
    sorted_ET = keys_ET.sort(dim=1, descending=True).values
    expected = [torch.inf if n < 1 else -torch.inf if n > 30 else float(sorted_ET[e, n - 1]) for e, n in enumerate(kth)]
    assert ops.kth_largest_of_rows(keys_ET, kth).tolist() == expected


def test_gates_sum_to_one_over_used_slots() -> None:
    scores_TE = torch.tensor([[0.2, 0.6, 0.2], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]])
    ids_TK = torch.tensor([[1, 0], [0, 1], [1, -1]])
    assert torch.allclose(ops.normalised_gates(scores_TE, ids_TK), torch.tensor([[0.75, 0.25], [0.5, 0.5], [1.0, 0.0]]))
    assert ops.normalised_gates(scores_TE, torch.full((3, 2), -1)).abs().sum() == 0


def test_gate_gradient_survives_a_token_without_slots() -> None:
    scores_TE = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    ids_TK = torch.tensor([[0, 1], [-1, -1], [2, -1]])
    (gradient_TE,) = torch.autograd.grad(ops.normalised_gates(scores_TE, ids_TK).square().sum(), scores_TE)
    assert torch.isfinite(gradient_TE).all()


def test_opcheck() -> None:
    ids_TK = torch.tensor([[0, 1], [1, -1], [2, 0]])
    torch.library.opcheck(torch.ops.moe.rank_slots.default, (ids_TK, 3))
