"""EfficientNet-Lite against the EfficientNet of transformers with the changes that make it Lite."""

from typing import Any

import pytest
import torch
from torch import nn

from edgekd.models.efficientnet_lite import efficientnet_lite0
from tests.models.other_networks import assert_same, hand_over, params, randomise


def _lite(transformers: Any, classes: int) -> nn.Module:
    """EfficientNet-B0 with ReLU6, without squeeze-and-excite, and padded as PyTorch networks are."""
    config = transformers.EfficientNetConfig(
        width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, hidden_act="relu6", num_labels=classes
    )
    network: nn.Module = transformers.EfficientNetForImageClassification(config).eval()
    for module in network.modules():
        if hasattr(module, "squeeze_excite"):
            module.squeeze_excite = nn.Identity()
        if isinstance(module, nn.ZeroPad2d):
            module.padding = (max(module.padding),) * 4
    return network


def test_it_is_the_network_of_transformers_made_lite() -> None:
    transformers = pytest.importorskip("transformers")
    ours, theirs = efficientnet_lite0(3, 7).eval(), _lite(transformers, 7)
    assert params(ours) == params(theirs)
    randomise(ours)
    images = torch.randn(4, 3, 64, 64)
    hand_over(ours, theirs, images)
    with torch.no_grad():
        assert_same(ours(images), theirs(images).logits)
