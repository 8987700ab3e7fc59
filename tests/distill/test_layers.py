"""Layers found by hooks, against names and shapes known from the definitions of the networks."""

import pytest
import torch
from torch import Tensor, nn

from edgekd.distill.layers import Layer, Structure, find_layers, find_structure
from edgekd.models.builders import OnlyLogits
from edgekd.models.tensors import TensorSpec
from tests.distill.networks import SOUND, TEXT, Network, as_network, image_inputs, images, network


def _structure(found: Network) -> Structure:
    return find_structure(found.module, found.spec, found.run)


def _shown(found: Network) -> list[str]:
    return [each.shown for each in find_layers(found.module, found.spec)]


KNOWN: dict[str, tuple[str, tuple[TensorSpec, ...], list[str]]] = {
    "resnet8": (
        "resnet8", image_inputs(),
        ["stages.0 (16x32x32)", "stages.1 (32x16x16)", "stages.2 (64x8x8)", "classifier:input (64)"],
    ),
    "resnet20": (
        "resnet20", image_inputs(),
        ["stages.2 (16x32x32)", "stages.5 (32x16x16)", "stages.8 (64x8x8)", "classifier:input (64)"],
    ),
    "mobilenet_v2": (
        "mobilenet_v2", image_inputs(64),
        ["blocks.0 (16x32x32)", "blocks.2 (24x16x16)", "blocks.5 (32x8x8)", "blocks.12 (96x4x4)", "head (1280x2x2)",
         "classifier:input (1280)"],
    ),
    "mobilenet_v3_small": (
        "mobilenet_v3_small", image_inputs(96),
        ["stem (16x48x48)", "blocks.0 (16x24x24)", "blocks.2 (24x12x12)", "blocks.7 (48x6x6)", "head (576x3x3)",
         "classifier:input (1024)"],
    ),
    "ds_cnn": ("ds_cnn", SOUND, ["network.blocks (64x25x20)", "network.classifier:input (64)"]),
    "tiny_transformer": (
        "tiny_transformer", TEXT, ["encoder.layer.0 (16x128)", "encoder.layer.1 (16x128)", "classifier:input (128)"]
    ),
    "shallow_cnn": ("shallow_cnn", image_inputs(8), ["features.0 (8x8x8)", "features.2 (24x4x4)", "classifier:input (24)"]),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_layers_are_those_of_the_definition(name: str) -> None:
    model, inputs, expected = KNOWN[name]
    assert _shown(network(model, inputs)) == expected


def test_layers_of_networks_of_the_hub() -> None:
    transformers = pytest.importorskip("transformers")
    bert = transformers.BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, num_labels=4
    )
    text = OnlyLogits(transformers.BertForSequenceClassification(bert), ("input_ids", "attention_mask"))
    blocks = [f"model.bert.encoder.layer.{index} (16x32)" for index in range(3)]
    assert _shown(as_network(text, TEXT)) == [*blocks, "model.classifier:input (32)"]
    vit = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        num_labels=4,
    )  # fmt: skip
    vision = OnlyLogits(transformers.ViTForImageClassification(vit), ("pixel_values",))
    patches, *rest = find_layers(vision, as_network(vision, image_inputs()).spec)
    assert (patches.kind, patches.stem) == ("map", True)
    assert [(each.kind, each.shape) for each in rest] == [("tokens", (17, 32)), ("tokens", (17, 32)), ("vector", (32,))]
    resnet = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", num_labels=4
    )  # fmt: skip
    convolutional = OnlyLogits(transformers.ResNetForImageClassification(resnet), ("pixel_values",))
    names = [each.name for each in find_layers(convolutional, as_network(convolutional, image_inputs()).spec)]
    assert names[-3:] == ["model.resnet.encoder.stages.0", "model.resnet.encoder.stages.1", "model.classifier.1:input"]


def test_order_depth_and_stem() -> None:
    found = network("resnet18", image_inputs(64))
    layers = find_layers(found.module, found.spec)
    maps = [each for each in layers if each.kind == "map"]
    assert [each.stem for each in maps] == [True, False, False, False, False]
    assert [each.depth for each in maps] == sorted(each.depth for each in maps)
    # 16 convolutions in blocks, 3 in shortcuts, 1 at the start, 1 dense layer; the stem is the first of 21.
    assert maps[0].depth == pytest.approx(1 / 21, abs=1e-4)
    assert maps[-1].depth == pytest.approx(20 / 21, abs=1e-4)


def test_a_rectified_stage_has_no_negative_values_and_says_what_goes_into_its_activation() -> None:
    found = _structure(network("resnet20", image_inputs()))
    last = found.of_kind("map")[-1]
    assert not last.signed
    assert found.before_activation[last.name] == "stages.8.relu:input"
    assert found.normalizations[last.name] == "stages.8.bn2"
    linear = _structure(network("mobilenet_v2", image_inputs(64)))
    assert linear.seen["blocks.12"].signed
    assert "blocks.12" not in linear.before_activation


def test_the_front_end_of_sounds_is_no_stage_but_its_size_is_what_comes_in() -> None:
    found = _structure(network("ds_cnn", SOUND))
    assert found.input_size == (49, 40)
    assert not any("log_mel" in each.name or "normalise" in each.name for each in found.layers)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(training: bool) -> None:
    found = network("mobilenet_v2", image_inputs())
    found.module.train(training)
    inside = dict(found.module.named_modules())
    inside["blocks.3"].eval()  # a frozen part stays frozen
    modes = [each.training for each in found.module.modules()]
    before = {name: each.clone() for name, each in found.module.state_dict().items()}
    noise = torch.get_rng_state()
    find_layers(found.module, found.spec)
    assert [each.training for each in found.module.modules()] == modes
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in found.module.modules())
    assert torch.equal(torch.get_rng_state(), noise)
    for name, each in found.module.state_dict().items():
        assert torch.equal(each, before[name])


def test_hooks_go_when_the_network_fails() -> None:
    found = network("resnet8", image_inputs())
    with pytest.raises(RuntimeError):
        find_structure(found.module, found.spec, lambda _: found.run(images(2, 8) | {"image": torch.zeros(2, 5, 8, 8)}))
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in found.module.modules())
    assert found.module.training is False


class _Odd(nn.Module):
    """Python that no tracer follows: a module used at two sizes, an output that is a tuple, a classifier of 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.shared = nn.ReLU()
        self.twice = _Twice()
        self.classify = nn.Conv2d(8, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.shared(self.first(image))
        if float(x.sum()) > -1:
            x, _ = self.twice(x)
        x = self.shared(x)
        logits: Tensor = self.classify(x.mean((2, 3), keepdim=True)).flatten(1)
        return logits


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return self.shrink(x), 7


def test_odd_networks() -> None:
    found = _structure(as_network(_Odd(), image_inputs(16)))
    assert [each.shown for each in found.layers] == ["first (8x16x16)", "twice (8x8x8)", "classify:input (8)"]
    assert "shared" not in found.seen


def test_layer_shows_itself() -> None:
    assert Layer("stages.1", "map", (32, 16, 16), 0.5).shown == "stages.1 (32x16x16)"
