"""What the zoo holds, readable without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ZooEntry:
    """One architecture of the zoo.

    Attributes:
        factory: ``module:function`` that builds it, called as ``factory(channels, classes)``.
        summary: One line for ``edgekd plan`` and ``edgekd models``.
        inputs: What it takes.
    """

    factory: str
    summary: str
    inputs: Literal["image", "audio", "text", "features"] = "image"


ZOO: dict[str, ZooEntry] = {
    "shallow_cnn": ZooEntry(
        "edgekd.models.cnn:shallow_cnn", "three 3x3 convolutions, 8-16-24 channels, for images of 8 to 32 pixels"
    ),
    "digits_teacher": ZooEntry(
        "edgekd.models.cnn:digits_teacher", "six 3x3 convolutions, 32-64-128 channels, for images of 8 to 32 pixels"
    ),
    "resnet8": ZooEntry("edgekd.models.resnet:resnet8", "MLPerf Tiny image classification: 16-32-64 filters, 78 k parameters"),
    "resnet20": ZooEntry("edgekd.models.resnet:resnet20", "CIFAR ResNet-20, 0.27 M parameters"),
    "resnet56": ZooEntry("edgekd.models.resnet:resnet56", "CIFAR ResNet-56, 0.85 M parameters"),
    "ds_cnn": ZooEntry("edgekd.models.ds_cnn:ds_cnn", "keyword spotting, 64 channels; 22,604 parameters", "audio"),
    "tiny_transformer": ZooEntry(
        "edgekd.models.transformer:tiny_transformer",
        "BERT layout, from 2 layers of 128; 4.4 M parameters at BERT's vocabulary",
        "text",
    ),
    "mlp": ZooEntry("edgekd.models.mlp:mlp", "two hidden layers of 64, for rows of numbers", "features"),
}
