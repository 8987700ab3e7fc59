"""Building blocks that several networks of the zoo share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_EPSILON = 1e-3
"""Of batch norm in the reference code of every MobileNet and EfficientNet."""
_WIDEST, _MOST = 64, 2**20
"""Beyond these, an argument is a slip of the pen."""


def scaled(channels: int, width: float, divisor: int = 1) -> int:
    """Return ``channels * width``, rounded to a multiple of ``divisor`` that is not over 10 % smaller (Sandler et al., 2018).

    Raises:
        ValueError: ``width`` is not a number above 0 and up to 64.
    """
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= _WIDEST:
        raise ValueError(f"width is {width!r}, allowed: a number above 0 and up to {_WIDEST}")
    exact = channels * width
    rounded = max(divisor, int(exact + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * exact else rounded


def whole(name: str, value: Any, lowest: int = 1) -> int:
    """Return ``value``, the argument ``name`` of a network, if it is a whole number from ``lowest`` to a million or so.

    Raises:
        ValueError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= _MOST:
        raise ValueError(f"{name} is {value!r}, allowed: a whole number from {lowest} to {_MOST}")
    return value


def conv_bn_relu(channels: int, width: int, stride: int) -> nn.Sequential:
    """Return a 3x3 convolution without bias, batch norm and ReLU; padding keeps size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


class HardSigmoid(nn.Module):
    """``relu6(x + 3) / 6`` (Howard et al., 2019), in operators that every integer runtime has."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to [0, 1]."""
        return nn.functional.relu6(x + 3.0) * (1 / 6)


class HardSwish(nn.Module):
    """``x * relu6(x + 3) / 6`` (Howard et al., 2019).

    Written out, because ONNX Runtime has no integer kernel for ONNX's HardSwish; TFLite's converter finds its own
    HARD_SWISH in it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same."""
        return x * (nn.functional.relu6(x + 3.0) * (1 / 6))


class ConvBN(nn.Module):
    """A convolution without bias, batch norm, and an activation; symmetrical padding keeps size at stride 1.

    Args:
        channels, width: Channels that come in and go out.
        kernel: Height and width of the window, odd.
        stride: Step of the window.
        groups: Groups of channels; as many as channels: a depthwise convolution.
        activation: Class of the activation; ``None``: none.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: type[nn.Module] | None = nn.ReLU6,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=_EPSILON)
        self.activation = nn.Identity() if activation is None else activation()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, channels, h, w]`` to ``[n, width, h / stride, w / stride]``."""
        result: Tensor = self.activation(self.bn(self.conv(x)))
        return result


class SqueezeExcite(nn.Module):
    """Weigh channels by what all pixels together say (Hu et al., 2018), with a hard sigmoid (Howard et al., 2019).

    Args:
        channels: Channels that are weighed.
        squeezed: Channels in between.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = HardSigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, channels, h, w]`` to the same shape."""
        weights: Tensor = self.gate(self.expand(self.relu(self.reduce(torch.mean(x, dim=(2, 3), keepdim=True)))))
        return x * weights


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; and a shortcut where shapes allow (Sandler et al., 2018).

    Args:
        channels, expanded, width: Channels that come in, in between, and go out; no expansion if the first two are equal.
        kernel: Of the depthwise convolution.
        stride: Of the depthwise convolution.
        activation: Class of the activation of all but the last convolution.
        squeezed: Channels in the middle of squeeze-and-excite; 0: there is none.
    """

    def __init__(
        self,
        channels: int,
        expanded: int,
        width: int,
        kernel: int,
        stride: int,
        activation: type[nn.Module] = nn.ReLU6,
        squeezed: int = 0,
    ) -> None:
        super().__init__()
        self.expand = nn.Identity() if expanded == channels else ConvBN(channels, expanded, 1, activation=activation)
        self.depthwise = ConvBN(expanded, expanded, kernel, stride, expanded, activation)
        self.squeeze_excite = SqueezeExcite(expanded, squeezed) if squeezed else nn.Identity()
        self.project = ConvBN(expanded, width, 1, activation=None)
        self.shortcut = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, channels, h, w]`` to ``[n, width, h / stride, w / stride]``."""
        result: Tensor = self.project(self.squeeze_excite(self.depthwise(self.expand(x))))
        return x + result if self.shortcut else result


def initialise(network: nn.Module) -> None:
    """Draw the weights of ``network``: He et al., 2015, by fan-out within a group; classifiers small; biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
