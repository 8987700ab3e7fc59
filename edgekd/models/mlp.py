"""A multilayer perceptron for rows of numbers."""

from __future__ import annotations

from torch import nn

from edgekd.models.blocks import scaled


def mlp(features: int, classes: int, hidden: int = 64, layers: int = 2, width: float = 1.0) -> nn.Module:
    """Build ``layers`` hidden layers of ``hidden`` units with ReLU: for 64 columns in 10 classes 8,970 parameters."""
    size, parts = features, []
    for _ in range(layers):
        units = scaled(hidden, width)
        parts += [nn.Linear(size, units), nn.ReLU(inplace=True)]
        size = units
    return nn.Sequential(*parts, nn.Linear(size, classes))
