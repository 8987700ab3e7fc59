"""A network with everything that shares scales: a pooling, a concatenation, a residual sum, a depthwise convolution."""

import torch
from torch import Tensor, nn
from torch.nn import functional

REFERENCE = "python:tests.quantize.networks:branching"


def _block(inputs: int, outputs: int, size: int = 3, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Branching(nn.Module):
    """Convolutions, max pooling, two branches joined, a depthwise convolution inside a residual, a linear classifier."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = _block(channels, 8)
        self.left, self.right = _block(8, 8, 1), _block(8, 8)
        self.depthwise = _block(16, 16, groups=16)
        self.project = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.classifier = nn.Linear(16, classes)

    def forward(self, image: Tensor) -> Tensor:
        pooled = functional.max_pool2d(self.stem(image), 2)
        joined = torch.cat([self.left(pooled), self.right(pooled)], 1)
        features = joined + self.project(self.depthwise(joined))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


def branching(channels: int, classes: int) -> nn.Module:
    """Build the network."""
    return Branching(channels, classes)
