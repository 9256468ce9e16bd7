"""Packed layers answer as the plain ones do, whatever the number of rows."""

import pytest
import torch
from torch import nn

from recsys.engine.freed_memory import keep_freed_memory
from recsys.engine.packed_linear import SMALL, PackedLinear, pack_linears


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (SMALL // 2048 + 1,), (20, 64)])
@torch.inference_mode()
def test_small_and_large_products_are_those_of_the_layer(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(32, 64, bias=bias)
    x = torch.randn(*shape, 32)
    assert torch.allclose(PackedLinear(linear)(x), linear(x), atol=1e-5)


@torch.inference_mode()
def test_every_layer_inside_is_replaced_but_those_it_cannot_serve() -> None:
    wide = nn.Linear(4, 4, dtype=torch.float64)
    module = nn.Sequential(nn.Linear(8, 16), nn.Sequential(nn.GELU(), nn.Linear(16, 4)))
    x = torch.randn(100_000, 8)
    before = module(x)
    both = nn.Sequential(module, wide)
    pack_linears(both)
    assert isinstance(module[0], PackedLinear)
    assert isinstance(module[1][1], PackedLinear)
    assert both[1] is wide
    assert torch.allclose(module(x), before, atol=1e-5)


def test_keeping_memory_twice_is_harmless() -> None:
    assert keep_freed_memory() == keep_freed_memory()
