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
        "edgekd.models.cnn:shallow_cnn",
        "three 3x3 convolutions, 8-16-24 channels, for images of 8 to 32 pixels; 5,026 parameters",
    ),
    "digits_teacher": ZooEntry(
        "edgekd.models.cnn:digits_teacher",
        "six 3x3 convolutions, 32-64-128 channels, for images of 8 to 32 pixels; 0.29 M parameters",
    ),
    "resnet8": ZooEntry("edgekd.models.resnet:resnet8", "MLPerf Tiny image classification: 16-32-64 filters, 78 k parameters"),
    "resnet20": ZooEntry("edgekd.models.resnet:resnet20", "CIFAR ResNet-20, 0.27 M parameters"),
    "resnet56": ZooEntry("edgekd.models.resnet:resnet56", "CIFAR ResNet-56, 0.85 M parameters"),
    "resnet18": ZooEntry("edgekd.models.resnet18:resnet18", "ImageNet ResNet-18, 11.7 M parameters"),
    "mobilenet_v1": ZooEntry("edgekd.models.mobilenet_v1:mobilenet_v1", "MobileNet, 4.2 M parameters"),
    "mobilenet_v2": ZooEntry("edgekd.models.mobilenet_v2:mobilenet_v2", "MobileNetV2, 3.5 M parameters"),
    "mobilenet_v3_small": ZooEntry("edgekd.models.mobilenet_v3:mobilenet_v3_small", "MobileNetV3-Small, 2.5 M parameters"),
    "mobilenet_v3_large": ZooEntry("edgekd.models.mobilenet_v3:mobilenet_v3_large", "MobileNetV3-Large, 5.5 M parameters"),
    "efficientnet_lite0": ZooEntry(
        "edgekd.models.efficientnet_lite:efficientnet_lite0", "EfficientNet-Lite0, made for int8; 4.7 M parameters"
    ),
    "ds_cnn": ZooEntry("edgekd.models.ds_cnn:ds_cnn", "MLPerf Tiny keyword spotting: 64 channels; 23,756 parameters", "audio"),
    "tiny_transformer": ZooEntry(
        "edgekd.models.transformer:tiny_transformer",
        "BERT layout, from 2 layers of 128; 4.4 M parameters at BERT's vocabulary",
        "text",
    ),
    "mlp": ZooEntry(
        "edgekd.models.mlp:mlp", "two hidden layers of 64, for rows of numbers; 8,970 parameters for 64 columns", "features"
    ),
}
"""Parameter counts are those of 1,000 classes for the ImageNet networks, of 10 for the others."""
