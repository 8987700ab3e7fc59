"""Building blocks that several networks of the zoo share."""

from __future__ import annotations

from torch import nn


def conv_bn_relu(channels: int, width: int, stride: int) -> nn.Sequential:
    """Return a 3x3 convolution without bias, batch norm and ReLU; padding keeps size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


def scaled(channels: int, width: float, divisor: int = 1) -> int:
    """Return ``channels * width``, rounded to a multiple of ``divisor`` that is not over 10 % smaller (Sandler et al., 2018)."""
    exact = channels * width
    rounded = max(divisor, int(exact + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * exact else rounded
