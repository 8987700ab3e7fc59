"""Residual networks for 32x32 images: CIFAR ResNets and the one of MLPerf Tiny."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.models.blocks import scaled


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut (He et al., 2016)."""

    def __init__(self, channels: int, width: int, stride: int, *, bias: bool, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.project = nn.Conv2d(channels, width, 1, stride=stride, bias=bias) if projection else None
        self.stride, self.grown = stride, width - channels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, channels, h, w]`` to ``[n, width, h / stride, w / stride]``."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.project is not None:
            x = self.project(x)
        elif self.stride > 1 or self.grown:
            # Option A of He et al.: drop pixels, fill new channels with zeros; it has no parameters.
            x = nn.functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.grown // 2, self.grown - self.grown // 2)
            )
        result: Tensor = self.relu(out + x)
        return result


class CifarResNet(nn.Module):
    """A 3x3 convolution, three stages of 16, 32 and 64 channels times ``width``, average pooling and a linear classifier."""

    def __init__(self, channels: int, classes: int, blocks: int, width: float, *, bias: bool, projection: bool) -> None:
        super().__init__()
        size = scaled(16, width)
        self.conv = nn.Conv2d(channels, size, 3, padding=1, bias=bias)
        self.bn = nn.BatchNorm2d(size)
        self.relu = nn.ReLU(inplace=True)
        stages: list[nn.Module] = []
        for base in (16, 32, 64):
            target = scaled(base, width)
            for index in range(blocks):
                stride = 2 if index == 0 and base > 16 else 1
                stages.append(BasicBlock(size, target, stride, bias=bias, projection=projection and stride == 2))
                size = target
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(size, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``image [n, channels, height, width]`` to logits ``[n, classes]``."""
        features: Tensor = self.stages(self.relu(self.bn(self.conv(image))))
        logits: Tensor = self.classifier(torch.mean(features, dim=(2, 3)))
        return logits


def resnet8(channels: int, classes: int, width: float = 1.0) -> nn.Module:
    """Build the image-classification network of MLPerf Tiny (Banbury et al., 2021).

    For 32x32 RGB in 10 classes: 78,666 values with batch-norm statistics as the reference counts
    them (78,186 trained parameters), 12.5 M MACs. As there, convolutions have biases and
    shortcuts that shrink are 1x1 convolutions.

    Args:
        channels: Of the image.
        classes: Number of classes.
        width: Scales channels.
    """
    return CifarResNet(channels, classes, 1, width, bias=True, projection=True)


def resnet20(channels: int, classes: int, width: float = 1.0) -> nn.Module:
    """Build ResNet-20 for CIFAR (He et al., 2016): 269,722 parameters (0.27 M), 40.6 M MACs for 32x32 RGB in 10 classes.

    Args:
        channels: Of the image.
        classes: Number of classes.
        width: Scales channels.
    """
    return CifarResNet(channels, classes, 3, width, bias=False, projection=False)


def resnet56(channels: int, classes: int, width: float = 1.0) -> nn.Module:
    """Build ResNet-56 for CIFAR (He et al., 2016): 853,018 parameters (0.85 M), 125.5 M MACs for 32x32 RGB in 10 classes.

    Args:
        channels: Of the image.
        classes: Number of classes.
        width: Scales channels.
    """
    return CifarResNet(channels, classes, 9, width, bias=False, projection=False)
