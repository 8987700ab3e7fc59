"""ResNet-18 for ImageNet (He et al., 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.models.blocks import initialise, scaled, whole


class ProjectedBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut with a 1x1 convolution and batch norm where shapes differ."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, channels, h, w]`` to ``[n, width, h / stride, w / stride]``."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        result: Tensor = self.relu(out + self.shortcut(x))
        return result


class ImageNetResNet(nn.Module):
    """A 7x7 convolution, max pooling, four stages of blocks, global average pooling and a linear classifier."""

    def __init__(self, channels: int, classes: int, blocks: tuple[int, ...], width: float, stem_stride: int) -> None:
        super().__init__()
        size = scaled(64, width)
        self.conv = nn.Conv2d(channels, size, 7, stride=whole("stem_stride", stem_stride), padding=3, bias=False)
        self.bn = nn.BatchNorm2d(size)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        stages: list[nn.Module] = []
        for stage, count in enumerate(blocks):
            for index in range(count):
                target = scaled(64 * 2**stage, width)
                stages.append(ProjectedBlock(size, target, 2 if index == 0 and stage > 0 else 1))
                size = target
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(size, classes)
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``image [n, channels, height, width]`` to logits ``[n, classes]``."""
        features: Tensor = self.stages(self.pool(self.relu(self.bn(self.conv(image)))))
        logits: Tensor = self.classifier(torch.mean(features, dim=(2, 3)))
        return logits


def resnet18(channels: int, classes: int, width: float = 1.0, stem_stride: int = 2) -> nn.Module:
    """Build ResNet-18 (He et al., 2016): 11,689,512 parameters, 1.81 G MACs for 224x224 RGB in 1,000 classes.

    Shortcuts that change shape are projections (option B), as in the reference code.

    Args:
        channels: Of the image.
        classes: Number of classes.
        width: Scales channels.
        stem_stride: Of the first convolution; 1 for images of about 32 pixels.
    """
    return ImageNetResNet(channels, classes, (2, 2, 2, 2), width, stem_stride)
