"""MobileNetV2: inverted residuals and linear bottlenecks (Sandler et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.models.blocks import ConvBN, InvertedResidual, initialise, scaled, whole

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, width, number of blocks and stride of the first of them: Table 2 of the paper."""


class MobileNetV2(nn.Module):
    """A 3x3 convolution, 17 inverted residuals, a 1x1 convolution, global average pooling and a linear classifier."""

    def __init__(self, channels: int, classes: int, width: float, stem_stride: int) -> None:
        super().__init__()
        size = scaled(32, width, 8)
        self.stem = ConvBN(channels, size, 3, whole("stem_stride", stem_stride))
        blocks = []
        for expansion, target, count, first_stride in _STAGES:
            for index in range(count):
                wide = scaled(target, width, 8)
                blocks.append(InvertedResidual(size, size * expansion, wide, 3, first_stride if index == 0 else 1))
                size = wide
        self.blocks = nn.Sequential(*blocks)
        # A narrow network keeps its last layer (section 6.1 of the paper).
        last = scaled(1280, max(1.0, width), 8)
        self.head = ConvBN(size, last, 1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(last, classes)
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``image [n, channels, height, width]`` to logits ``[n, classes]``."""
        features: Tensor = self.head(self.blocks(self.stem(image)))
        logits: Tensor = self.classifier(self.dropout(torch.mean(features, dim=(2, 3))))
        return logits


def mobilenet_v2(channels: int, classes: int, width: float = 1.0, stem_stride: int = 2) -> nn.Module:
    """Build MobileNetV2 1.0 (Sandler et al., 2018): 3,504,872 parameters, 301 M MACs for 224x224 RGB in 1,000 classes.

    At width 0.5: 1.97 M parameters, 97 M MACs; at 1.4: 6.1 M, 582 M.

    Args:
        channels: Of the image.
        classes: Number of classes.
        width: Scales channels, in multiples of 8: 0.35 to 1.4 in the paper. The last 1,280 channels never shrink.
        stem_stride: Of the first convolution; 1 for images of about 32 pixels.
    """
    return MobileNetV2(channels, classes, width, stem_stride)
