"""Dropout that does not spend more time on random numbers than on the layer it follows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Zero a random share of `x` and scale up the rest, as `torch.nn.functional.dropout` does.

    On a CPU the share is rounded to 1/256: one random byte decides on one value, where torch draws 8 bytes in a
    single thread.
    """
    if not training or not share or x.device.type != "cpu":
        return F.dropout(x, share, training)
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    threshold = max(1, round(share * 256))
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= threshold
    return x * (kept.to(x.dtype) * (256 / (256 - threshold)))
