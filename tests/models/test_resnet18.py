"""ResNet-18 against the one of transformers."""

import pytest
import torch

from edgekd.models.resnet18 import resnet18
from tests.models.other_networks import assert_same, hand_over, params, randomise


def test_it_is_the_network_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=7
    )
    ours, theirs = resnet18(3, 7).eval(), transformers.ResNetForImageClassification(config).eval()
    assert params(ours) == params(theirs)
    randomise(ours)
    images = torch.randn(4, 3, 64, 64)
    hand_over(ours, theirs, images)
    with torch.no_grad():
        assert_same(ours(images), theirs(images).logits)
