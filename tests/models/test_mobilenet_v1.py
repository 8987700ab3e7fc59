"""MobileNet against the one of transformers."""

import pytest
import torch

from edgekd.models.mobilenet_v1 import mobilenet_v1
from tests.models.other_networks import assert_same, hand_over, params, randomise


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_it_is_the_network_of_transformers(width: float) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileNetV1Config(depth_multiplier=width, tf_padding=False, num_labels=7)
    ours, theirs = mobilenet_v1(3, 7, width).eval(), transformers.MobileNetV1ForImageClassification(config).eval()
    assert params(ours) == params(theirs)
    randomise(ours)
    images = torch.randn(4, 3, 64, 64)
    hand_over(ours, theirs, images)
    with torch.no_grad():
        assert_same(ours(images), theirs(images).logits)
