from __future__ import annotations

import torch

from recsys.model.dropout import dropout


def test_the_wanted_share_is_dropped_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    dropped = dropout(torch.ones(1_000, 301), 0.3, training=True)
    assert abs(float((dropped == 0).float().mean()) - 0.3) < 0.005
    assert abs(float(dropped.mean()) - 1) < 0.005
    assert (dropped == 0).float().mean(0).std() < 0.02  # every place is as likely as any other


def test_nothing_happens_outside_training() -> None:
    x = torch.randn(5, 7)
    assert dropout(x, 0.3, training=False) is x or torch.equal(dropout(x, 0.3, training=False), x)


def test_a_seed_repeats_it_and_gradients_follow_it() -> None:
    x = torch.ones(10, 10, requires_grad=True)
    torch.manual_seed(1)
    first = dropout(x, 0.5, training=True)
    torch.manual_seed(1)
    assert torch.equal(first, dropout(x, 0.5, training=True))
    first.sum().backward()
    assert torch.equal(x.grad, first.detach())  # type: ignore[arg-type]
