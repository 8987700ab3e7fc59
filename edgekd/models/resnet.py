"""Residual networks for 32x32 images: CIFAR ResNets and the one of MLPerf Tiny."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        elif self.grown:
            # Option A of He et al.: drop pixels, fill new channels with zeros; it has no parameters.
            x = nn.functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.grown // 2, self.grown - self.grown // 2)
            )
        result: Tensor = self.relu(out + x)
        return result


class CifarResNet(nn.Module):
    """A 3x3 convolution, three stages of 16, 32 and 64 channels, average pooling and a linear classifier."""

    def __init__(self, channels: int, classes: int, blocks: int, *, bias: bool, projection: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=bias)
        self.bn = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        stages: list[nn.Module] = []
        width = 16
        for target in (16, 32, 64):
            for index in range(blocks):
                stride = 2 if index == 0 and target > 16 else 1
                stages.append(BasicBlock(width, target, stride, bias=bias, projection=projection and stride == 2))
                width = target
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``image [n, channels, height, width]`` to logits ``[n, classes]``."""
        features: Tensor = self.stages(self.relu(self.bn(self.conv(image))))
        logits: Tensor = self.classifier(torch.mean(features, dim=(2, 3)))
        return logits


def resnet8(channels: int, classes: int) -> nn.Module:
    """Build the image-classification network of MLPerf Tiny (Banbury et al., 2021).

    For 32x32 RGB in 10 classes: 78,666 values with batch-norm statistics as the reference counts
    them (78,186 trained parameters), 12.5 M MACs. As there, convolutions have biases and
    shortcuts that shrink are 1x1 convolutions.
    """
    return CifarResNet(channels, classes, 1, bias=True, projection=True)


def resnet20(channels: int, classes: int) -> nn.Module:
    """Build ResNet-20 for CIFAR (He et al., 2016): 0.27 M parameters, 41 M MACs for 32x32 RGB in 10 classes."""
    return CifarResNet(channels, classes, 3, bias=False, projection=False)


def resnet56(channels: int, classes: int) -> nn.Module:
    """Build ResNet-56 for CIFAR (He et al., 2016): 0.85 M parameters, 126 M MACs for 32x32 RGB in 10 classes."""
    return CifarResNet(channels, classes, 9, bias=False, projection=False)
