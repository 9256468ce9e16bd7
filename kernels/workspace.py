"""Scratch memory that is kept between calls, so that large temporaries cost no page faults."""

from __future__ import annotations

import threading
from math import prod

import torch
from torch import Tensor


class Workspace(threading.local):
    """One growing buffer per name, dtype, device and thread.

    What it hands out is valid until the next call for that name.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised contiguous tensor of `shape` with the dtype and device of `like`."""
        key, size = (name, like.dtype, like.device), prod(shape)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            # Inference tensors must not be kept for training, so the buffer is an ordinary one.
            with torch.inference_mode(False):
                buffer = torch.empty(size, dtype=like.dtype, device=like.device)
            self._buffers[key] = buffer
        return buffer[:size].view(shape)
