"""Networks that a device is calibrated on: each is heavy in something else, so that the costs of operators tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.models.blocks import ConvBN, HardSwish, InvertedResidual, initialise


class _Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where shapes differ."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvBN(channels, width, 3, stride, activation=nn.ReLU), ConvBN(width, width, 3, activation=None)
        )
        same = stride == 1 and channels == width
        self.shortcut: nn.Module = nn.Identity() if same else ConvBN(channels, width, 1, stride, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.relu(self.body(x) + self.shortcut(x))
        return result


class _Branches(nn.Module):
    """A 1x1 and a 3x3 convolution of the same input, joined."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.left, self.right = ConvBN(channels, width // 2, 1), ConvBN(channels, width // 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


def _block(kind: str, channels: int, width: int, stride: int) -> tuple[nn.Module, int]:
    """Return a block, and the channels that it makes."""
    if kind.startswith("conv"):
        return ConvBN(channels, width, int(kind.removeprefix("conv")), stride), width
    if kind.startswith("depthwise"):
        return ConvBN(channels, channels, int(kind.removeprefix("depthwise")), stride, channels), channels
    if kind == "separable":
        return nn.Sequential(ConvBN(channels, channels, 3, stride, channels), ConvBN(channels, width, 1)), width
    if kind == "inverted":
        return InvertedResidual(channels, 6 * channels, width, 3, stride), width
    if kind == "squeezed":
        return InvertedResidual(channels, 4 * channels, width, 5, stride, HardSwish, channels), width
    if kind == "hard":
        return InvertedResidual(channels, 4 * channels, width, 3, stride, HardSwish), width
    if kind == "excited":
        return InvertedResidual(channels, 3 * channels, width, 3, stride, squeezed=channels), width
    if kind == "residual":
        return _Residual(channels, width, stride), width
    if kind == "branches":
        return _Branches(channels, width), width
    if kind == "maxpool":
        return nn.MaxPool2d(3, stride, 1), channels
    if kind == "avgpool":
        return nn.AvgPool2d(2, stride), channels
    raise ValueError(f"no block '{kind}'")


def chain(channels: int, classes: int, blocks: Sequence[Sequence[Any]], hidden: Sequence[int] = ()) -> nn.Module:
    """Build blocks after another, then the mean over places, hidden layers, and a classifier.

    Args:
        channels: Of the input.
        classes: Of the output.
        blocks: ``(kind, width, stride, count)`` each; the first of ``count`` has the stride.
        hidden: Widths of dense layers before the classifier.

    Raises:
        ValueError: There is no such block.
    """
    layers: list[nn.Module] = []
    for kind, width, stride, count in blocks:
        for index in range(count):
            layer, channels = _block(kind, channels, width, stride if index == 0 else 1)
            layers.append(layer)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for width in hidden:
        layers += [nn.Linear(channels, width), nn.ReLU()]
        channels = width
    network = nn.Sequential(*layers, nn.Linear(channels, classes))
    initialise(network)
    return network
