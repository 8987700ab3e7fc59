"""MobileNet: depthwise-separable convolutions (Howard et al., 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.models.blocks import ConvBN, initialise, scaled, whole

_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Width and stride of each depthwise-separable block: Table 1 of the paper."""


class DepthwiseSeparable(nn.Module):
    """A 3x3 convolution of each channel, and a 1x1 convolution across channels."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvBN(channels, channels, 3, stride, channels)
        self.pointwise = ConvBN(channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, channels, h, w]`` to ``[n, width, h / stride, w / stride]``."""
        result: Tensor = self.pointwise(self.depthwise(x))
        return result


class MobileNetV1(nn.Module):
    """A 3x3 convolution, 13 depthwise-separable blocks, global average pooling and a linear classifier."""

    def __init__(self, channels: int, classes: int, width: float, stem_stride: int) -> None:
        super().__init__()
        size = scaled(32, width, 8)
        self.stem = ConvBN(channels, size, 3, whole("stem_stride", stem_stride))
        blocks = []
        for target, stride in _BLOCKS:
            blocks.append(DepthwiseSeparable(size, scaled(target, width, 8), stride))
            size = scaled(target, width, 8)
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(size, classes)
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``image [n, channels, height, width]`` to logits ``[n, classes]``."""
        features: Tensor = self.blocks(self.stem(image))
        logits: Tensor = self.classifier(torch.mean(features, dim=(2, 3)))
        return logits


def mobilenet_v1(channels: int, classes: int, width: float = 1.0, stem_stride: int = 2) -> nn.Module:
    """Build MobileNet 1.0 (Howard et al., 2017): 4,231,976 parameters, 569 M MACs for 224x224 RGB in 1,000 classes.

    At width 0.5: 1.3 M parameters, 149 M MACs. As in the reference code, activations are ReLU6.

    Args:
        channels: Of the image.
        classes: Number of classes.
        width: Scales channels, in multiples of 8: 0.25, 0.5, 0.75 and 1 in the paper.
        stem_stride: Of the first convolution; 1 for images of about 32 pixels.
    """
    return MobileNetV1(channels, classes, width, stem_stride)
