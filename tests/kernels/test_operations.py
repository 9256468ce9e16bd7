"""The public operations as `torch.library` sees them: contracts, tracing in one graph, and the layer made of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kernels import ops, reference
from kernels.cpu import library

FORMS = ["static", "dropless"]


def opcheck(name: str, *arguments: object) -> None:
    torch.library.opcheck(getattr(torch.ops.moe, name).default, arguments)


@pytest.mark.parametrize("capacity", [None, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_route_and_plan_keeps_its_contract(in_form: Callable, capacity: int | None, dtype: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(0)
    x_TD = torch.randn(20, 6, generator=draws).to(dtype).requires_grad_()
    gate_DE = torch.randn(6, 4, generator=draws).to(dtype).requires_grad_()
    with in_form():
        opcheck("route_and_plan", x_TD, gate_DE, torch.rand(4), torch.rand(4), 2, capacity)


@pytest.mark.parametrize("form", FORMS)
def test_expert_ffn_and_combine_keep_theirs(make_layer: Callable, in_form: Callable, form: str) -> None:
    case = make_layer(10, 4, 3, 3, 2)
    case.ids_TK[2, 1] = -1
    (rank_TK, load_E), capacity = case.plan(), case.capacity(form, 2)
    x_TD, gates_TK, w_up, w_down = case.floats()
    slot_TK = ops.slot_rows(case.ids_TK, rank_TK, load_E, capacity)
    with in_form():
        opcheck("slot_rows", case.ids_TK, rank_TK, load_E, capacity)
        opcheck("expert_ffn", x_TD, slot_TK, load_E, w_up, w_down, capacity)
        y_SD = ops.expert_ffn(x_TD, slot_TK, load_E, w_up, w_down, capacity).detach().requires_grad_()
        opcheck("combine", y_SD, slot_TK, gates_TK)


def layer(
    x_TD: Tensor, gate_DE: Tensor, prices_E: Tensor, w_up: Tensor, w_down: Tensor, capacity: int | None
) -> tuple[Tensor, Tensor]:
    scores_TE, ids_TK, gates_TK, rank_TK, load_E = ops.route_and_plan(x_TD, gate_DE, None, prices_E, 2, capacity)
    y_TD = ops.moe_experts(x_TD, ids_TK, gates_TK, rank_TK, load_E, w_up, w_down, capacity=capacity)
    return y_TD, scores_TE


@pytest.mark.parametrize("capacity", [None, 12])
def test_the_layer_is_traced_in_one_graph(make_layer: Callable, in_form: Callable, capacity: int | None) -> None:
    case = make_layer(30, 8, 12, 5, 2)
    gate_DE, prices_E = torch.randn(8, 5, generator=torch.Generator().manual_seed(3)).requires_grad_(), torch.rand(5)
    inputs = [case.x_TD.requires_grad_(), gate_DE, case.w_up.requires_grad_(), case.w_down.requires_grad_()]
    arguments = (case.x_TD, gate_DE, prices_E, case.w_up, case.w_down, capacity)
    with in_form():
        traced = torch.compile(layer, fullgraph=True, backend="aot_eager")
        for actual, expected in zip(traced(*arguments), layer(*arguments), strict=True):
            assert torch.allclose(actual, expected, rtol=1e-5, atol=1e-6)
        gradients = [
            torch.autograd.grad(sum(part.square().sum() for part in run(*arguments)), inputs) for run in (traced, layer)
        ]
    for actual, expected in zip(*gradients, strict=True):
        assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("experts", "k"), [(5, 2), (16, 1), (33, 4), (64, 6)])
def test_route_and_plan_puts_its_parts_together(in_form: Callable, experts: int, k: int) -> None:
    draws = torch.Generator().manual_seed(5)
    x_TD, gate_DE = torch.randn(90, 6, generator=draws), torch.randn(6, experts, generator=draws)
    bias_E, prices_E = torch.rand(experts, generator=draws), torch.rand(experts, generator=draws)
    with in_form():
        scores_TE, ids_TK, gates_TK, rank_TK, load_E = ops.route_and_plan(x_TD, gate_DE, bias_E, prices_E, k, None)
    assert torch.allclose(scores_TE, reference.gate_scores(x_TD, gate_DE), rtol=1e-5, atol=1e-8)
    assert torch.equal(ids_TK, (scores_TE + (bias_E - prices_E)).topk(k, dim=1).indices)
    assert torch.allclose(gates_TK, scores_TE.gather(1, ids_TK) / scores_TE.gather(1, ids_TK).sum(1, keepdim=True))
    expected_TK, expected_E = reference.rank_slots(ids_TK, experts)
    assert torch.equal(rank_TK, expected_TK)
    assert torch.equal(load_E, expected_E)
    assert ops.gate_scores(x_TD.bfloat16(), gate_DE.bfloat16()).dtype == torch.float32


def test_equal_scores_go_to_the_lower_expert(in_form: Callable) -> None:
    with in_form():
        _, ids_TK, gates_TK, _, _ = ops.route_and_plan(torch.zeros(3, 4), torch.ones(4, 20), None, None, 3, None)
    assert ids_TK.tolist() == [[0, 1, 2]] * 3
    assert torch.allclose(gates_TK, torch.full((3, 3), 1 / 3))


def test_tokens_that_are_not_numbers_are_routed_somewhere_and_seen_in_their_scores(in_form: Callable) -> None:
    x_TD = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    x_TD[2] = torch.nan
    with in_form():
        scores_TE, ids_TK, gates_TK, _, load_E = ops.route_and_plan(x_TD, torch.eye(4), None, None, 2, None)
    assert bool(((ids_TK >= 0) & (ids_TK < 4)).all())
    assert int(load_E.sum()) == 12
    for part in (scores_TE, gates_TK):
        assert part.isnan().any(dim=1).tolist() == [False, False, True, False, False, False]


def test_experts_at_a_price_of_infinity_are_not_chosen(in_form: Callable) -> None:
    prices_E = torch.tensor([torch.inf, 0.0, torch.inf, 0.0])
    with in_form():
        _, ids_TK, gates_TK, rank_TK, load_E = ops.route_and_plan(torch.eye(4), torch.eye(4), None, prices_E, 3, None)
    assert ids_TK.tolist() == [[1, 3, -1], [1, 3, -1], [1, 3, -1], [3, 1, -1]]
    assert load_E.tolist() == [0, 4, 0, 4]
    assert not gates_TK[:, 2].any()
    assert bool((rank_TK[:, 2] == -1).all())
    assert torch.allclose(gates_TK.sum(dim=1), torch.ones(4))


def test_route_and_plan_drops_who_comes_too_late(in_form: Callable) -> None:
    draws = torch.Generator().manual_seed(6)
    x_TD, gate_DE = torch.randn(40, 6, generator=draws), torch.randn(6, 4, generator=draws)
    with in_form():
        _, wished_TK, _, wished_rank_TK, wished_E = ops.route_and_plan(x_TD, gate_DE, None, None, 2, None)
        scores_TE, ids_TK, gates_TK, rank_TK, load_E = ops.route_and_plan(x_TD, gate_DE, None, None, 2, 15)
    assert torch.equal(ids_TK, torch.where(wished_rank_TK < 15, wished_TK, -1))
    assert torch.equal(rank_TK, torch.where(ids_TK >= 0, wished_rank_TK, -1))
    assert torch.equal(load_E, wished_E.clamp_max(15))
    assert torch.allclose(gates_TK, ops.normalised_gates(scores_TE, ids_TK))


def test_more_experts_than_there_are_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match=r"k must be in 1\.\.3"):
        ops.route_and_plan(torch.zeros(2, 4), torch.ones(4, 3), None, None, 4, None)


def test_a_negative_capacity_is_named(make_layer: Callable, in_form: Callable) -> None:
    case = make_layer(6, 4, 4, 3, 2)
    rank_TK, load_E = case.plan()
    with in_form():
        with pytest.raises(ValueError, match="capacity must be >= 0 or None, not -2"):
            ops.route_and_plan(case.x_TD, torch.ones(4, 3), None, None, 2, -2)
        with pytest.raises(ValueError, match="capacity must be >= 0 or None, not -2"):
            ops.slot_rows(case.ids_TK, rank_TK, load_E, -2)
        with pytest.raises(ValueError, match="capacity must be >= 0 or None, not -2"):
            ops.expert_ffn(case.x_TD, case.ids_TK, load_E, case.w_up, case.w_down, -2)


def test_ids_of_any_stride(in_form: Callable) -> None:
    ids_TK = torch.randint(0, 4, (2, 30), generator=torch.Generator().manual_seed(0)).T
    rank_TK, load_E = reference.rank_slots(ids_TK, 4)
    with in_form():
        opcheck("rank_slots", ids_TK, 4)
        opcheck("slot_rows", ids_TK, rank_TK, load_E, None)
        assert torch.equal(ops.rank_slots(ids_TK, 4)[0], rank_TK)


def test_what_would_be_read_beyond_its_end_is_refused(make_layer: Callable) -> None:
    case = make_layer(6, 4, 4, 3, 2)
    if not library.serves(case.x_TD):
        pytest.skip("the compiled kernels do not serve here")
    rank_TK, load_E = case.plan()
    slot_TK = ops.slot_rows(case.ids_TK, rank_TK, load_E, None)
    x_TD, w_up, w_down = case.x_TD, case.w_up, case.w_down
    wrong: dict[str, Callable[[], object]] = {
        "expert_ids must be torch.int64": lambda: ops.rank_slots(case.ids_TK.int(), 3),
        "rank must be": lambda: ops.slot_rows(case.ids_TK, rank_TK[:3], load_E, None),
        "load must be torch.int64": lambda: ops.slot_rows(case.ids_TK, rank_TK, load_E.int(), None),
        "slot must be": lambda: ops.expert_ffn(x_TD, slot_TK[:3], load_E, w_up, w_down, None),
        "load must be": lambda: ops.expert_ffn(x_TD, slot_TK, load_E[:2], w_up, w_down, None),
        "w_up must be": lambda: ops.expert_ffn(x_TD, slot_TK, load_E, w_up[:, :2], w_down, None),
        "w_down must be": lambda: ops.expert_ffn(x_TD, slot_TK, load_E, w_up, w_down[:, :, :2], None),
        "gates must be": lambda: ops.combine(x_TD, slot_TK, case.gates_TK[:, :1]),
        "bias must be": lambda: ops.route_and_plan(x_TD, torch.ones(4, 3), torch.ones(1), None, 2, None),
        "prices must be": lambda: ops.route_and_plan(x_TD, torch.ones(4, 3), None, torch.ones(2), 2, None),
        r"x \(6, 4\) and gate \(5, 3\)": lambda: ops.route_and_plan(x_TD, torch.ones(5, 3), None, None, 2, None),
    }
    for message, call in wrong.items():
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("capacity", [None, 0, 6, 50])
def test_no_two_slots_share_a_row(make_layer: Callable, in_form: Callable, capacity: int | None) -> None:
    case = make_layer(30, 2, 2, 4, 2)
    case.ids_TK[torch.rand(30, 2, generator=torch.Generator().manual_seed(0)) < 0.2] = -1
    rank_TK, load_E = case.plan()
    with in_form():
        slot_TK = ops.slot_rows(case.ids_TK, rank_TK, load_E, capacity)
    rows = 60 if capacity is None else 4 * capacity
    used_TK = (case.ids_TK >= 0) & ((rank_TK < capacity) if capacity is not None else True)
    assert bool((slot_TK[~used_TK] == rows).all())
    taken = slot_TK[used_TK]
    assert len(taken.unique()) == len(taken)
    if capacity:
        assert torch.equal(taken // capacity, case.ids_TK[used_TK])
    elif capacity is None:
        assert int(taken.max()) == len(taken) - 1  # without gaps


def test_rows_that_no_slot_names_are_zeros(make_layer: Callable, in_form: Callable) -> None:
    case = make_layer(30, 7, 5, 4, 2)
    case.ids_TK[case.ids_TK == 1] = -1
    rank_TK, load_E = case.plan()
    for capacity in (None, int(load_E.max()) + 4):
        slot_TK = ops.slot_rows(case.ids_TK, rank_TK, load_E, capacity)
        with in_form():
            y_SD = ops.expert_ffn(case.x_TD, slot_TK, load_E, case.w_up, case.w_down, capacity)
        named_S = torch.zeros(len(y_SD), dtype=torch.bool)
        named_S[slot_TK[case.ids_TK >= 0]] = True
        assert not y_SD[~named_S].any()
        assert y_SD[named_S].any(dim=1).all()


def test_a_plan_that_does_not_fit_stays_inside_its_memory(make_layer: Callable, in_form: Callable) -> None:
    case = make_layer(30, 8, 8, 4, 2)
    rank_TK, load_E = case.plan()
    slot_TK = ops.slot_rows(case.ids_TK, rank_TK, load_E, None)
    if library.serves(case.x_TD):
        ops.expert_ffn(case.x_TD, slot_TK + 10**6, load_E * 1000, case.w_up, case.w_down, None)
        ops.expert_ffn(case.x_TD, slot_TK - 10**6, -load_E, case.w_up, case.w_down, 3)
