from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.training import losses
from recsys.training.losses import full_softmax, ranking_loss, sampled_softmax


def problem(tokens: int = 37, items: int = 23, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    states_TD = torch.randn(tokens, width, requires_grad=True)
    table_ID = torch.randn(items, width, requires_grad=True)
    return states_TD, table_ID, torch.randint(1, items, (tokens,))


@pytest.mark.parametrize("chunk", [1, 10, 37, 1_000])
def test_the_chunked_softmax_is_the_plain_one(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(losses, "CHUNK", chunk)
    states_TD, table_ID, targets_T = problem()
    expected = F.cross_entropy(states_TD @ table_ID[1:].T, targets_T - 1)
    wanted = torch.autograd.grad(expected * 3, [states_TD, table_ID])
    loss = full_softmax(states_TD, table_ID, targets_T)
    found = torch.autograd.grad(loss * 3, [states_TD, table_ID])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, wanted)


def test_the_narrow_softmax_is_near() -> None:
    states_TD, table_ID, targets_T = problem()
    exact, near = (full_softmax(states_TD, table_ID, targets_T, kind) for kind in (torch.float32, torch.bfloat16))
    torch.testing.assert_close(near, exact, rtol=0.02, atol=0)
    wanted, found = (torch.autograd.grad(loss, [states_TD, table_ID]) for loss in (exact, near))
    for wide, narrow in zip(wanted, found, strict=True):
        assert float((narrow - wide).norm() / wide.norm()) < 0.01


def test_no_states() -> None:
    states_TD, table_ID, targets_T = problem(tokens=0)
    assert float(full_softmax(states_TD, table_ID, targets_T).detach()) == 0


def test_the_sampled_softmax_comes_to_the_full_one() -> None:
    """With many draws the estimate is near, however uneven they are."""
    states_TD, table_ID, targets_T = problem(width=3)
    share_I = torch.arange(23).float() / sum(range(23))
    negatives_M = torch.multinomial(share_I, 200_000, replacement=True)
    with torch.no_grad():
        estimate = sampled_softmax(states_TD, table_ID, targets_T, negatives_M, share_I.log())
        torch.testing.assert_close(estimate, full_softmax(states_TD, table_ID, targets_T), rtol=0.01, atol=0)


def test_ranking_loss_by_hand() -> None:
    """One negative drawn once for sure: cross entropy over two, and two binary ones per goal."""
    logits_BNG = torch.tensor([[[2.0, 0.5], [1.0, -1.0]]])
    log_draws_BN = torch.zeros(1, 2)

    def binary(logit: float, label: int) -> float:
        return math.log1p(math.exp(-logit if label else logit))

    listwise = math.log(math.exp(2) + math.exp(1)) - 2
    click = binary(2, 1) + binary(1, 0)
    liked, not_liked = binary(0.5, 1) + binary(-1, 0), binary(0.5, 0) + binary(-1, 0)
    given = 1.5  # a like is e^-1.5 times as likely as a click
    liked, not_liked = liked + given, not_liked - math.log(1 - math.exp(-given))
    for label, like in ((1.0, liked), (0.0, not_liked)):
        loss = ranking_loss(logits_BNG, torch.tensor([[1.0, label]]), log_draws_BN)
        assert float(loss) == pytest.approx(listwise + click + like, rel=1e-5)
    assert float(ranking_loss(logits_BNG, torch.ones(1, 2), log_draws_BN, (1.0, 0.0))) == pytest.approx(
        listwise + click, rel=1e-5
    )


def test_candidates_left_out_do_not_count() -> None:
    logits_BNG = torch.randn(3, 4, 2, requires_grad=True)
    log_draws_BN = torch.tensor([0.0, -1.0, torch.inf, torch.inf]).expand(3, 4)
    met_BG = torch.ones(3, 2)
    loss = ranking_loss(logits_BNG, met_BG, log_draws_BN)
    torch.testing.assert_close(loss, ranking_loss(logits_BNG[:, :2], met_BG, log_draws_BN[:, :2]))
    loss.backward()
    assert logits_BNG.grad is not None
    assert logits_BNG.grad.isfinite().all()
    assert (logits_BNG.grad[:, 2:] == 0).all()


def test_ranking_learns_log_probabilities_whatever_is_drawn() -> None:
    """Items are taken with known shares and drawn very unevenly as negatives; the logits find log(share)."""
    torch.manual_seed(0)
    share_I = torch.tensor([0.5, 0.3, 0.15, 0.05])
    draw_I = torch.tensor([0.1, 0.1, 0.1, 0.7])
    logit_I = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([logit_I], lr=0.05)
    negatives = 6
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 400)
        taken_B = torch.multinomial(share_I, 512, replacement=True)
        drawn_BN = torch.multinomial(draw_I, 512 * negatives, replacement=True).view(512, negatives)
        candidates_BN = torch.cat([taken_B[:, None], drawn_BN], 1)
        log_draws_BN = (negatives * draw_I).log()[candidates_BN]
        optimizer.zero_grad()
        ranking_loss(logit_I[candidates_BN][..., None], torch.ones(512, 1), log_draws_BN).backward()
        optimizer.step()
    torch.testing.assert_close(logit_I.detach().softmax(0), share_I, atol=0.04, rtol=0)
