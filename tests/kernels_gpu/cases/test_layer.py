"""The whole layer: one launch or four give the definition; capacity drops the later tokens; prices fill capacities."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import ops, reference
from kernels.gpu import layer, tiles

FORMS = ["one launch", "four launches"]


def run(form: str, case, k: int, **more) -> torch.Tensor:  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "prefers_tiny", lambda *shape: form == "one launch")
        return layer.moe(case.x_TD, case.gate_DE, case.w_up, case.w_down, k, **more)


@given(
    tokens=st.integers(0, 70),
    width=st.sampled_from([5, 24, 64]),
    hidden=st.sampled_from([9, 32]),
    experts=st.sampled_from([1, 4, 7]),
    k=st.integers(1, 7),
    skew=st.sampled_from([0.0, 1.0, 20.0]),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 99),
)
def test_values(
    problem: Callable, tokens: int, width: int, hidden: int, experts: int, k: int, skew: float, form: str, seed: int
) -> None:
    k = min(k, experts)
    case = problem(tokens, width, hidden, experts, k, seed=seed, skew=skew)
    actual = run(form, case, k)
    assert actual.shape == case.x_TD.shape
    # Where two scores agree to seven digits float64 may choose another expert: then the outputs differ, and rightly.
    keys_TE = reference.gate_scores(case.x_TD.double().cpu(), case.gate_DE.double().cpu()).sort(1).values
    clear_T = torch.ones(tokens, dtype=torch.bool)
    if k < experts:
        clear_T = (keys_TE[:, -k] - keys_TE[:, -k - 1]) > 1e-6
    case.ids_TK[~clear_T] = -1
    assert case.error(torch.where(clear_T[:, None], actual.cpu(), 0)) < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_bias_and_prices_change_the_choice_not_the_gates(problem: Callable, device: str, form: str) -> None:
    case = problem(40, 16, 16, 5, 2)
    bias_E = torch.tensor([0.0, 0.4, 0.0, 0.0, 0.2], device=device)
    prices_E = torch.tensor([0.3, 0.0, torch.inf, 0.1, 0.0], device=device)
    scores_TE = reference.gate_scores(case.x_TD.double().cpu(), case.gate_DE.double().cpu())
    ids_TK = ops.choose(scores_TE, 2, bias_E=bias_E.cpu(), prices_E=prices_E.cpu())
    case.ids_TK, case.gates_TK = ids_TK.to(device), ops.normalised_gates(scores_TE, ids_TK).to(device)
    assert case.error(run(form, case, 2, bias_E=bias_E, prices_E=prices_E)) < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16(problem: Callable, bfloat16_error: float, form: str) -> None:
    case = problem(100, 64, 64, 8, 2, dtype=torch.bfloat16)
    assert case.error(run(form, case, 2)) < bfloat16_error


@pytest.mark.parametrize("form", FORMS)
def test_two_runs_give_the_same_bits(problem: Callable, form: str) -> None:
    case = problem(101, 32, 32, 8, 2)
    assert torch.equal(run(form, case, 2), run(form, case, 2))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, under the interpreter
def test_a_token_of_nan_spoils_no_other(problem: Callable) -> None:
    case = problem(40, 16, 16, 4, 2)
    clean = [run(form, case, 2) for form in FORMS]
    case.x_TD[11] = torch.nan
    others = torch.arange(40) != 11
    for form, before in zip(FORMS, clean, strict=True):
        assert torch.allclose(run(form, case, 2)[others], before[others], rtol=1e-5, atol=1e-6)


def test_capacity_drops_later_tokens_and_their_gates_go_to_what_is_kept(problem: Callable, device: str) -> None:
    case = problem(80, 16, 16, 4, 2, skew=0.5)
    ids_TK, gates_TK, rank_TK, _ = case.plan()
    case.ids_TK = torch.where(rank_TK < 30, ids_TK, -1)
    kept_TK = gates_TK.double() * (case.ids_TK >= 0)
    case.gates_TK = kept_TK / kept_TK.sum(1, keepdim=True).clamp_min(1e-30)
    assert (case.ids_TK < 0).any()
    actual = layer.moe(case.x_TD, case.gate_DE, case.w_up, case.w_down, 2, capacity=30)
    assert case.error(actual) < 1e-6


def test_balanced_layer_computes_what_it_assigned(problem: Callable, device: str) -> None:
    case = problem(200, 16, 16, 4, 2, skew=0.7)  # plain top-k gives some expert 180
    capacity_E = torch.tensor([100], device=device).expand(4)
    result = layer.balanced(case.x_TD, case.gate_DE, case.w_up, case.w_down, 2, capacity_E)
    held_TE = ((result.assignment.held_T.cpu()[:, None] >> torch.arange(4)) & 1).double()
    assert held_TE.sum(0).tolist() == [100] * 4
    assert held_TE.sum(1).tolist() == [2] * 200
    scores_TE = reference.gate_scores(case.x_TD.double().cpu(), case.gate_DE.double().cpu())
    ids_TK = (scores_TE + 10 * held_TE).topk(2, dim=1).indices
    case.ids_TK, case.gates_TK = ids_TK.to(device), ops.normalised_gates(scores_TE, ids_TK).to(device)
    assert case.error(result.y_TD) < 1e-6


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, under the interpreter
def test_a_token_of_nan_takes_slots_and_spoils_no_other_balanced_token(problem: Callable, device: str) -> None:
    case, capacity_E = problem(60, 16, 16, 4, 2), torch.full((4,), 30, device=device)
    case.x_TD[11] = torch.nan
    result = layer.balanced(case.x_TD, case.gate_DE, case.w_up, case.w_down, 2, capacity_E)
    assert result.assignment.load_E.tolist() == [30] * 4
    finite_T = torch.isfinite(result.y_TD.cpu()).all(1)
    assert finite_T.tolist() == [t != 11 for t in range(60)]


def serve(form: str, case) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Every form of the layer as a function of its tokens alone."""
    if form != "balanced":
        return run(form, case, 2)
    capacity_E = torch.full((8,), case.x_TD.shape[0] // 4, device=case.x_TD.device)
    return layer.balanced(case.x_TD, case.gate_DE, case.w_up, case.w_down, 2, capacity_E).y_TD


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("form", [*FORMS, "balanced"])
def test_a_captured_graph_replays_with_other_routing(problem: Callable, form: str) -> None:
    case, other = problem(120, 32, 32, 8, 2), problem(120, 32, 32, 8, 2, seed=7, skew=2.0)
    held = case.x_TD.clone()
    case.x_TD = held
    expected = serve(form, case)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = serve(form, case)
    graph.replay()
    assert torch.equal(result, expected)
    held.copy_(other.x_TD)
    graph.replay()
    assert torch.equal(result, serve(form, case))
    assert not torch.equal(result, expected)


def test_what_does_not_fit_is_named(problem: Callable) -> None:
    case = problem(4, 16, 8, 3, 1)
    x_TD, gate_DE, w_up, w_down = case.x_TD, case.gate_DE, case.w_up, case.w_down
    with pytest.raises(ValueError, match=r"k must be in 1\.\.3 .* not 4"):
        layer.moe(x_TD, gate_DE, w_up, w_down, 4)
    with pytest.raises(ValueError, match="capacity must be >= 0"):
        layer.moe(x_TD, gate_DE, w_up, w_down, 1, capacity=-1)
    with pytest.raises(ValueError, match=r"gate \(16, 2\)"):
        layer.moe(x_TD, gate_DE[:, :2].contiguous(), w_up, w_down, 1)
    with pytest.raises(ValueError, match=r"x .*bfloat16"):
        layer.moe(x_TD.bfloat16(), gate_DE, w_up, w_down, 1)
    with pytest.raises(ValueError, match="w_up must be contiguous"):
        layer.moe(x_TD, gate_DE, w_up.transpose(1, 2).contiguous().transpose(1, 2), w_down, 1)
    with pytest.raises(ValueError, match=r"bias_E \(1,\)"):
        run("one launch", case, 2, bias_E=torch.zeros(1, device=case.x_TD.device))
    with pytest.raises(ValueError, match=r"capacity_E \(2,\)"):
        layer.balanced(x_TD, gate_DE, w_up, w_down, 1, torch.ones(2, dtype=torch.int64, device=x_TD.device))


@pytest.mark.parametrize("tokens", [1, 2])
def test_single_tokens(problem: Callable, tokens: int) -> None:
    case = problem(tokens, 16, 16, 4, 2)
    for form in FORMS:
        assert case.error(run(form, case, 2)) < 1e-6


def test_no_tokens(problem: Callable, device: str) -> None:
    case = problem(0, 16, 16, 4, 2)
    capacity_E = torch.ones(4, dtype=torch.int64, device=device)
    result = layer.balanced(case.x_TD, case.gate_DE, case.w_up, case.w_down, 2, capacity_E)
    assert result.y_TD.shape == (0, 16)
    assert not result.prices_E.any()
    assert not result.assignment.load_E.any()
    assert float(result.assignment.gap) == 0
