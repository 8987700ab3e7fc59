"""Fake quantization: numbers rounded to the steps of int8 in floating point, with gradients for what is rounded and its range.

Rounding passes gradients straight through (Bengio et al., 2013); ranges learn from what they cut off and from what they round
(Esser et al., 2020; Jain et al., 2020).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 255
"""Steps between the 256 values that an activation can have."""
WEIGHT_LIMIT = 127
"""Largest integer of a weight; -128 is not used, so that 0 is in the middle."""
_LEAST = 1e-12
"""A range is this wide at least: an activation that is always 0 has one, too."""


def integer_range(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and zero point of 256 integers from ``low`` to ``high``: float32 and int32 scalars.

    Args:
        low: At most 0.
        high: At least 0.
    """
    scale = ((high - low) / STEPS).clamp_min(_LEAST)
    return scale, (-low / scale).round().clamp(0, STEPS).to(torch.int32)


class _FakeQuantized(torch.autograd.Function):
    """``(clamp(round(x / scale) + zero, 0, 255) - zero) * scale``, with scale and zero point from low and high."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        scale, zero = integer_range(low, high)
        y = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, STEPS)
        ctx.save_for_backward(x, y, scale, zero)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,) = gradients
        x, y, scale, zero = ctx.saved_tensors
        place = torch.round(x / scale) + zero
        below, above = place < 0, place > STEPS
        inside = gradient.masked_fill(below | above, 0)
        # Inside, y is a whole number of steps: its slope by the scale is what rounding added, in steps.
        by_step = (inside * (y - x)).sum() / scale / STEPS
        by_low = gradient.masked_fill(~below, 0).sum() - by_step
        by_high = gradient.masked_fill(~above, 0).sum() + by_step
        return inside, by_low, by_high


class ActivationQuantizer(nn.Module):
    """Rounds a value to 256 steps over a range that it learns, which always contains 0.

    What is learned is by how much each end of the first range grows, as a logarithm: one learning rate suits ranges of any
    size, ends keep their sign, and an end at 0, as after a ReLU, stays there.

    Args:
        low: Low end of the range to start from, at most 0.
        high: High end, at least 0.
        ceiling: What the high end stays under: of a value that was cut off there, as by a ReLU6, whose work the integers do.
    """

    def __init__(self, low: float, high: float, ceiling: float = math.inf) -> None:
        super().__init__()
        self.register_buffer("first", torch.tensor([low, high], dtype=torch.float32))
        self.growth = nn.Parameter(torch.zeros(2))
        self.ceiling = ceiling

    def range(self) -> tuple[Tensor, Tensor]:
        """Return both ends as they are learned, float32 scalars."""
        assert isinstance(self.first, Tensor)
        low, high = self.first * self.growth.exp()
        return low, high.clamp(max=self.ceiling)

    def exact_range(self) -> tuple[float, float]:
        """Return the range whose ends are among the 256 values: who computes scale and zero point from it finds ours."""
        scale, zero = integer_range(*self.range())
        step, steps_below = scale.item(), zero.item()
        return -steps_below * step, (STEPS - steps_below) * step

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` of any shape, rounded."""
        result: Tensor = _FakeQuantized.apply(x, *self.range())  # type: ignore[no-untyped-call]
        return result


class WeightQuantizer(nn.Module):
    """Rounds weights to integers from -127 to 127, symmetric, with a scale for each output channel.

    The largest weight of a channel is 127 steps, so quantizers that look at rounded weights find the same steps again.

    Args:
        axis: Dimension of the output channels.
    """

    def __init__(self, axis: int = 0) -> None:
        super().__init__()
        self.axis = axis

    def scales(self, weight: Tensor) -> Tensor:
        """Return the size of a step for each channel, ``[channels]``."""
        others = [each for each in range(weight.ndim) if each != self.axis]
        return (weight.detach().abs().amax(others) / WEIGHT_LIMIT).clamp_min(_LEAST)

    def forward(self, weight: Tensor) -> Tensor:
        """Return ``weight``, rounded; gradients pass through as if it were not."""
        scales = self.scales(weight)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, self.axis, -WEIGHT_LIMIT, WEIGHT_LIMIT)
