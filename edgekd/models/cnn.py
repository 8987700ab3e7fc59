"""Small plain convolutional networks for small images.

Parameter and MAC counts are those of one-channel 8x8 images in 10 classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.models.blocks import conv_bn_relu, scaled


class PlainCNN(nn.Module):
    """3x3 convolutions with batch norm and ReLU, global average pooling and a linear classifier."""

    def __init__(self, channels: int, classes: int, widths: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, stride in zip(widths, strides, strict=True):
            layers.append(conv_bn_relu(channels, width, stride))
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``image [n, channels, height, width]`` to logits ``[n, classes]``."""
        features: Tensor = self.features(image)
        logits: Tensor = self.classifier(torch.mean(features, dim=(2, 3)))
        return logits


def shallow_cnn(channels: int, classes: int, width: float = 1.0) -> nn.Module:
    """Build three convolutions of 8, 16 and 24 channels, edgekd's own: 5,026 parameters, 78,576 MACs.

    Args:
        channels: Of the image.
        classes: Number of classes.
        width: Scales channels.
    """
    return PlainCNN(channels, classes, tuple(scaled(each, width) for each in (8, 16, 24)), (1, 2, 1))


def digits_teacher(channels: int, classes: int, width: float = 1.0) -> nn.Module:
    """Build six convolutions of 32 to 128 channels, edgekd's own: 288,170 parameters, 2.38 M MACs.

    Args:
        channels: Of the image.
        classes: Number of classes.
        width: Scales channels.
    """
    widths = tuple(scaled(each, width) for each in (32, 32, 64, 64, 128, 128))
    return PlainCNN(channels, classes, widths, (1, 1, 2, 1, 2, 1))
