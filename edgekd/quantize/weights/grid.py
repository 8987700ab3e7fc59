"""The int8 grid of weights: symmetric, one scale per output, as both formats' quantizers have it."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 127


def scales(weight: Tensor) -> Tensor:
    """Return the scale of each output of ``weight [outputs, ...]``, shaped to divide it: the largest weight is 127 steps."""
    largest = weight.abs().reshape(len(weight), -1).max(1).values
    return torch.where(largest > 0, largest / STEPS, torch.ones_like(largest)).reshape(-1, *[1] * (weight.dim() - 1))


def nearest(weight: Tensor) -> Tensor:
    """Return ``weight`` rounded to the nearest step."""
    scale = scales(weight)
    return torch.round(weight / scale).clamp(-STEPS, STEPS) * scale
