"""MobileNetV3 against the ones of Keras, which are Google's own."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.models.keras_file import import_keras
from edgekd.models.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from tests.models.other_networks import assert_same, in_calling_order, params, randomise


def _weights(layer: nn.Module) -> list[np.ndarray[Any, Any]]:
    """Return the weights of a layer in Keras's order and layout; dense layers are 1x1 convolutions there."""
    state = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    if isinstance(layer, nn.BatchNorm2d):
        return [state[name] for name in ("weight", "bias", "running_mean", "running_var")]
    weight = state["weight"].reshape(*state["weight"].shape[:2], *getattr(layer, "kernel_size", (1, 1)))
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
    kernel = weight.transpose(2, 3, 0, 1) if depthwise else weight.transpose(2, 3, 1, 0)
    return [kernel, state["bias"]] if "bias" in state else [kernel]


@pytest.mark.slow
@pytest.mark.parametrize("width", [0.75, 1.0])
@pytest.mark.parametrize(
    ("factory", "name"), [(mobilenet_v3_small, "MobileNetV3Small"), (mobilenet_v3_large, "MobileNetV3Large")]
)
def test_it_is_the_network_of_keras(factory: Callable[..., nn.Module], name: str, width: float) -> None:
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed")
    keras = import_keras("torch")  # as students of Keras have it, for a process has one
    applications = keras.applications
    # TensorFlow pads images of 65, 33, 17, 9 and 5 pixels on all sides alike, as PyTorch does.
    theirs = getattr(applications, name)(
        input_shape=(65, 65, 3), alpha=width, weights=None, classes=7, classifier_activation=None, include_preprocessing=False
    )
    ours = factory(3, 7, width).eval()
    assert params(ours) == sum(int(np.prod(each.shape)) for each in theirs.trainable_weights)
    randomise(ours)
    images = torch.randn(4, 3, 65, 65)
    holders = [layer for layer in theirs.layers if layer.weights]
    for source, target in zip(in_calling_order(ours, images), holders, strict=True):
        target.set_weights(_weights(source))
    expected = keras.ops.convert_to_numpy(theirs(images.permute(0, 2, 3, 1).numpy(), training=False))
    with torch.no_grad():
        assert_same(ours(images), torch.tensor(expected))
