from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recsys.model.encoder import causal_attention, newest_first_in
from recsys.model.recommender import Recommender

HISTORY = [3, 9, 27, 41, 5]


def encode_user(model: Recommender, table_ID: Tensor, rows: list[list[int]], row: int = 0) -> Tensor:
    history_BL = torch.tensor(rows)
    user_D: Tensor = model.encode(history_BL, (history_BL != 0).long() * 2, table_ID).user_BD[row]
    return user_D.detach()


@pytest.mark.parametrize(
    "padded",
    [[*HISTORY, 0, 0, 0], [0, 0, 0, *HISTORY], [3, 0, 9, 27, 0, 0, 41, 5], [0] * 40 + HISTORY],
    ids=["behind", "in-front", "between", "much"],
)
def test_padding_changes_nothing(model: Recommender, table_ID: Tensor, padded: list[int]) -> None:
    plain_D = encode_user(model, table_ID, [HISTORY])
    torch.testing.assert_close(encode_user(model, table_ID, [padded]), plain_D, atol=1e-6, rtol=0)


def test_other_rows_change_nothing(model: Recommender, table_ID: Tensor) -> None:
    strangers = torch.randint(0, 42, (31, len(HISTORY))).tolist()
    plain_D = encode_user(model, table_ID, [HISTORY])
    torch.testing.assert_close(encode_user(model, table_ID, [*strangers, HISTORY], -1), plain_D, atol=1e-6, rtol=0)


def test_order_and_kind_matter(model: Recommender, table_ID: Tensor) -> None:
    plain_D = encode_user(model, table_ID, [HISTORY])
    assert (encode_user(model, table_ID, [HISTORY[::-1]]) - plain_D).abs().max() > 1e-3
    history_BL = torch.tensor([HISTORY])
    liked_D = model.encode(history_BL, torch.full_like(history_BL, 3), table_ID).user_BD[0]
    assert (liked_D - plain_D).abs().max() > 1e-3


def test_the_future_does_not_reach_the_past(model: Recommender, table_ID: Tensor) -> None:
    history_BL = torch.tensor([HISTORY, [*HISTORY[:3], 17, 30]])
    states_BLD = model.encode(history_BL, torch.ones_like(history_BL), table_ID).states_BLD
    torch.testing.assert_close(states_BLD[0, :4], states_BLD[1, :4], atol=1e-6, rtol=0)
    assert (states_BLD[0, 4] - states_BLD[1, 4]).abs().max() > 1e-3


def test_only_the_newest_events_are_read(model: Recommender, table_ID: Tensor) -> None:
    longest = model.config.history
    old, new = list(range(1, 20)), list(range(20, 20 + longest))
    torch.testing.assert_close(
        encode_user(model, table_ID, [old + new]), encode_user(model, table_ID, [new]), atol=1e-6, rtol=0
    )


def test_a_cold_start_has_a_user_vector(model: Recommender, table_ID: Tensor) -> None:
    empty = torch.zeros(2, 0, dtype=torch.int64)
    encoded = model.encode(empty, empty, table_ID)
    assert encoded.user_BD.isfinite().all()
    assert encoded.mask_BL.tolist() == [[True], [True]]
    padded_D = encode_user(model, table_ID, [[0, 0, 0], HISTORY[:3]])
    torch.testing.assert_close(encoded.user_BD[0], padded_D, atol=1e-6, rtol=0)


def test_no_requests(model: Recommender, table_ID: Tensor) -> None:
    none = torch.zeros(0, 4, dtype=torch.int64)
    assert model.encode(none, none, table_ID).user_BD.shape == (0, model.config.width)


def test_the_users_state_is_that_after_the_newest_event(model: Recommender, table_ID: Tensor) -> None:
    history_BL = torch.tensor([[3, 9, 0, 0], [1, 2, 3, 4]])
    encoded = model.encode(history_BL, torch.ones_like(history_BL), table_ID)
    assert encoded.mask_BL.sum(1).tolist() == [3, 5]
    torch.testing.assert_close(encoded.user_BD[0], encoded.states_BLD[0, 2])
    torch.testing.assert_close(encoded.user_BD[1], encoded.states_BLD[1, 4])


def test_columns_of_the_newest_events() -> None:
    columns_BL, mask_BL = newest_first_in(torch.tensor([[0, 5, 0, 6, 7], [0, 0, 0, 0, 1]]), 2)
    assert columns_BL.tolist()[0] == [3, 4]
    assert mask_BL.tolist() == [[True, True], [True, False]]
    assert columns_BL[1, 0] == 4


def test_a_gated_encoder_knows_no_future_and_no_padding(
    make_model: Callable[..., Recommender], table_ID: Tensor
) -> None:
    gated = make_model(encoder_gated=True, encoder_ages=3)
    plain_D = encode_user(gated, table_ID, [HISTORY])
    torch.testing.assert_close(encode_user(gated, table_ID, [[0, *HISTORY, 0]]), plain_D, atol=1e-6, rtol=0)
    assert not torch.allclose(plain_D, encode_user(make_model(), table_ID, [HISTORY]))
    history_BL = torch.tensor([HISTORY, [*HISTORY[:3], 7, 7]])
    states_BLD = gated.encode(history_BL, torch.ones_like(history_BL), table_ID).states_BLD
    torch.testing.assert_close(states_BLD[0, :4], states_BLD[1, :4], atol=1e-6, rtol=0)


@pytest.mark.parametrize("ages", [0, 4])
def test_both_forms_of_attention_agree(ages: int) -> None:
    torch.manual_seed(0)
    age_bias_AM = torch.randn(ages, 2) if ages else None
    wide = torch.randn(3, 2, 2, 7, 4, requires_grad=True)
    narrow = wide.detach().bfloat16().requires_grad_()
    for x in (wide, narrow):
        causal_attention(*x, age_bias_AM).square().sum().backward()
    answers = (causal_attention(*x, age_bias_AM).float() for x in (narrow, wide))
    torch.testing.assert_close(*answers, atol=0.05, rtol=0.05)
    assert wide.grad is not None
    assert narrow.grad is not None
    torch.testing.assert_close(narrow.grad.float(), wide.grad, atol=0.2, rtol=0.05)


def test_the_bias_of_an_age_is_added_to_scores() -> None:
    """With nothing but the bias to tell them apart, events weigh exp(bias of their age); the last is for all older."""
    values = torch.eye(5)[None, None]
    bias_AM = torch.tensor([[0.0], [1.0], [-2.0]])
    weights_LL = causal_attention(torch.zeros_like(values), torch.randn_like(values), values, bias_AM)[0, 0]
    newest_L = torch.tensor([-2.0, -2.0, -2.0, 1.0, 0.0]).softmax(0)
    torch.testing.assert_close(weights_LL[4], newest_L)
    torch.testing.assert_close(weights_LL[1], torch.tensor([0.7311, 0.2689, 0, 0, 0]), atol=1e-4, rtol=0)
