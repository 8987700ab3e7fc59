"""EfficientNet-Lite: EfficientNet (Tan & Le, 2019) for integer arithmetic, without squeeze-and-excite and with ReLU6."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgekd.models.blocks import ConvBN, InvertedResidual, initialise, scaled, whole

_STAGES = (
    (1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1), (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)  # fmt: skip
"""Expansion, width, number of blocks, kernel and stride of the first of them: Table 1 of the paper."""


class EfficientNetLite(nn.Module):
    """A 3x3 convolution, inverted residuals, a 1x1 convolution, global average pooling and a linear classifier.

    As in the reference code, neither width nor depth scales the first convolution and the last one, and depth leaves
    the first and the last stage alone. Its stochastic depth is left out.
    """

    def __init__(self, channels: int, classes: int, width: float, depth: float, stem_stride: int) -> None:
        super().__init__()
        if isinstance(depth, bool) or not isinstance(depth, int | float) or not 0 < depth <= 16:
            raise ValueError(f"depth is {depth!r}, allowed: a number above 0 and up to 16")
        size = 32
        self.stem = ConvBN(channels, size, 3, whole("stem_stride", stem_stride))
        blocks = []
        for expansion, target, count, kernel, first_stride in _STAGES:
            for index in range(count if target in (16, 320) else math.ceil(count * depth)):
                wide = scaled(target, width, 8)
                blocks.append(InvertedResidual(size, size * expansion, wide, kernel, first_stride if index == 0 else 1))
                size = wide
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvBN(size, 1280, 1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(1280, classes)
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``image [n, channels, height, width]`` to logits ``[n, classes]``."""
        features: Tensor = self.head(self.blocks(self.stem(image)))
        logits: Tensor = self.classifier(self.dropout(torch.mean(features, dim=(2, 3))))
        return logits


def efficientnet_lite0(channels: int, classes: int, width: float = 1.0, depth: float = 1.0, stem_stride: int = 2) -> nn.Module:
    """Build EfficientNet-Lite0 (Google, 2020, after Tan & Le, 2019): 4,652,008 parameters, 385 M MACs for 224x224 RGB in
    1,000 classes (published as 4.7 M and 407 M; the latter counts more than convolutions and matrix products).

    Args:
        channels: Of the image.
        classes: Number of classes.
        width: Scales channels, in multiples of 8.
        depth: Scales the number of blocks, rounded up. Lite1 to Lite4 have (width, depth) of (1, 1.1), (1.1, 1.2), (1.2, 1.4)
            and (1.4, 1.8).
        stem_stride: Of the first convolution; 1 for images of about 32 pixels.
    """
    return EfficientNetLite(channels, classes, width, depth, stem_stride)
