from __future__ import annotations

import torch
from torch import nn

from recsys.training.average import WeightAverage


def constant(value: float) -> nn.Linear:
    model = nn.Linear(2, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_the_average_lags_behind_and_comes_after() -> None:
    model = constant(0.0)
    average = WeightAverage(model, decay=0.9)
    nn.init.ones_(model.weight)
    seen = []
    for step in range(1_000, 1_100):
        average.update(step)
        with average.in_place():
            seen.append(float(model.weight[0, 0].detach()))
    assert abs(seen[0] - 0.1) < 1e-6
    assert seen == sorted(seen)
    assert abs(seen[-1] - 1) < 1e-3
    assert float(model.weight[0, 0].detach()) == 1.0  # the newest are back


def test_without_decay_it_is_the_newest() -> None:
    model = constant(0.0)
    average = WeightAverage(model, decay=0.0)
    nn.init.constant_(model.weight, 0.3)
    average.update(1)
    assert torch.equal(average.state()["weight"], model.weight)


def test_the_first_steps_weigh_more_so_that_the_start_is_forgotten() -> None:
    model = constant(100.0)
    average = WeightAverage(model, decay=0.999)
    nn.init.zeros_(model.weight)
    for step in range(1, 101):
        average.update(step)
    assert float(average.state()["weight"].abs().max()) < 0.1
