"""A running average of the weights: what is validated, kept and served, while training goes on from the newest ones.

Steps of a fixed size end up walking around a good place; their average is nearer to it than any of them (Polyak and
Juditsky, 1992).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a model's parameters.

    Args:
        model: whose parameters are followed.
        decay: share of the old average kept in a step; 0 follows the newest weights. In the first steps less is kept.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._weights = dict(model.named_parameters())
        self._decay = decay
        self._average = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step`, 1 being the first."""
        kept = min(self._decay, step / (step + 10))
        torch._foreach_lerp_(list(self._average.values()), list(self._weights.values()), 1 - kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the averaged weights."""
        newest = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._set(self._average)
        try:
            yield
        finally:
            self._set(newest)

    def state(self) -> dict[str, Tensor]:
        """The average, for a checkpoint; `load` takes it back."""
        return self._average

    def load(self, average: dict[str, Tensor]) -> None:
        """Go on from a checkpoint's average."""
        for name, weight in average.items():
            self._average[name].copy_(weight)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])
