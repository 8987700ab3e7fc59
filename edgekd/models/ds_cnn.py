"""Depthwise-separable convolutions for keyword spotting (Zhang et al., 2017, "Hello Edge")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.models.blocks import scaled


class DSCNN(nn.Module):
    """A 10x4 convolution, four depthwise-separable blocks, global average pooling and a linear classifier.

    Convolutions have biases beside their batch norm, and the last dropout is strong, as in the reference of MLPerf Tiny.
    """

    def __init__(self, channels: int, classes: int, width: int, blocks: int = 4) -> None:
        super().__init__()
        # Padding as "same" has it for 49 frames and stride 2: one more frame below than above.
        self.pad = nn.ZeroPad2d((1, 1, 4, 5))
        self.first = nn.Sequential(nn.Conv2d(channels, width, (10, 4), stride=2), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout(0.2)
        self.blocks = nn.Sequential(*(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, groups=width), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            )
            for _ in range(blocks)
        ))  # fmt: skip
        self.last_dropout = nn.Dropout(0.4)
        self.classifier = nn.Linear(width, classes)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Map ``spectrogram [n, channels, frames, bands]`` to logits ``[n, classes]``."""
        features: Tensor = self.blocks(self.dropout(self.first(self.pad(spectrogram))))
        logits: Tensor = self.classifier(self.last_dropout(torch.mean(features, dim=(2, 3))))
        return logits


def ds_cnn(channels: int, classes: int, width: float = 1.0) -> nn.Module:
    """Build DS-CNN-S (Zhang et al., 2017) as in MLPerf Tiny (Banbury et al., 2021): 64 channels.

    For one channel of 49 frames by 10 coefficients in 12 classes: 23,756 parameters (24,908 values with batch-norm
    statistics, 22,604 in a file where batch norm is folded into the convolutions), 2.66 M MACs.

    Args:
        channels: Of the spectrogram.
        classes: Number of classes.
        width: Scales channels.
    """
    return DSCNN(channels, classes, scaled(64, width))
