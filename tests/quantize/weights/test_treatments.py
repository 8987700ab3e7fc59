"""What treatments of weights promise: the same outputs after folding and equalizing, no mean shift, less noise, the same grid."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from edgekd.export.onnx import export_onnx
from edgekd.export.tflite import export_tflite
from edgekd.models.spec import load
from edgekd.models.tensors import ModelSpec, TensorSpec, classifier
from edgekd.quantize.onnx import quantize_onnx
from edgekd.quantize.tflite import quantize_tflite
from edgekd.quantize.weights.correction import correct_biases
from edgekd.quantize.weights.equalization import equalize, find_pairs
from edgekd.quantize.weights.folding import Layer, Samples, find_layers, fold, outputs_of
from edgekd.quantize.weights.grid import nearest, scales
from edgekd.quantize.weights.improve import improve_weights
from edgekd.quantize.weights.rounding import inputs_of, learn_rounding, output_noise
from tests.quantize.conftest import Exported

NAMES = ["stem.0", "left.0", "right.0", "depthwise.0", "project.0", "classifier"]


@pytest.fixture
def network(trained: Exported) -> tuple[nn.Module, ModelSpec, Samples]:
    return copy.deepcopy(trained.model), trained.spec, {"image": torch.from_numpy(trained.images)}


def test_a_folded_network_gives_the_same_and_its_norms_multiply_by_one(network: tuple[nn.Module, ModelSpec, Samples]) -> None:
    model, spec, samples = network
    before, expected = outputs_of(model, spec, samples), copy.deepcopy(model)
    layers = fold(model, spec, samples)
    assert [each.name for each in layers] == NAMES
    assert [each.norm is not None for each in layers] == [True] * 5 + [False]
    torch.testing.assert_close(outputs_of(model, spec, samples), before, rtol=1e-5, atol=1e-5)
    for layer in layers[:-1]:
        assert layer.norm is not None and layer.norm.running_var is not None
        assert (layer.norm.weight / torch.sqrt(layer.norm.running_var + layer.norm.eps) == 1).all()
        assert (layer.norm.weight * torch.rsqrt(layer.norm.running_var + layer.norm.eps) == 1).all()
        old = expected.get_submodule(layer.name)
        norm = expected.get_submodule(layer.name.replace(".0", ".1"))
        factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).reshape(-1, 1, 1, 1)  # type: ignore[operator,arg-type]
        torch.testing.assert_close(layer.weight, old.weight.detach() * factor.detach())  # type: ignore[operator]


class _Shared(nn.Module):
    """The output of the first convolution goes past its batch norm as well, so that it must not be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.second, self.plain = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)
        self.head = nn.Linear(4, 3)

    def forward(self, image: Tensor) -> Tensor:
        first = self.conv(image)
        after = functional.relu6(self.norm(first)) + first
        logits: Tensor = self.head(functional.relu(self.plain(self.second(after))).mean((2, 3)))
        return logits


def _shared() -> tuple[nn.Module, ModelSpec, Samples]:
    torch.manual_seed(1)
    model = _Shared().train()
    image = torch.randn(40, 1, 8, 8)
    for _ in range(20):
        model(image)
    taken = TensorSpec("image", "float32", (1, 8, 8), "NCHW", "image")
    return model.eval(), classifier("python:nowhere:nothing", (taken,), ("a", "b", "c")), {"image": image}


def test_what_others_take_is_not_folded_and_a_norm_without_a_bias_gets_a_mean() -> None:
    model, spec, samples = _shared()
    before = outputs_of(model, spec, samples)
    layers = {each.name: each for each in fold(model, spec, samples)}
    assert layers["conv"].norm is None
    assert layers["second"].norm is not None
    torch.testing.assert_close(outputs_of(model, spec, samples), before, rtol=1e-5, atol=1e-5)
    assert [(each.first.name, each.second.name) for each in find_pairs(model, spec, list(layers.values()), samples)] == [
        ("second", "head")  # a ReLU6 and a sum lie behind the first
    ]


def test_biases_take_back_the_mean_shift_of_every_channel(network: tuple[nn.Module, ModelSpec, Samples]) -> None:
    model, spec, samples = network
    reference = copy.deepcopy(model)
    layers = fold(model, spec, samples)
    with torch.no_grad():
        for layer in layers:  # coarse rounding, so that there is something to correct
            layer.module.weight.copy_(torch.round(layer.weight / scales(layer.weight) / 16) * 16 * scales(layer.weight))

    def shifts(changed: nn.Module) -> dict[str, float]:
        rounded = copy.deepcopy(changed)
        ends = {each.name: each for each in find_layers(rounded, spec, samples)}
        with torch.no_grad():
            for each in ends.values():
                each.module.weight.copy_(nearest(each.weight))
        found = {}
        for each in layers:
            true, seen = (_output(net, spec, samples, each.name) for net in (reference, rounded))
            axes = [axis for axis in range(true.dim()) if axis != each.channel_axis % true.dim()]
            found[each.name] = float((true - seen).mean(axes).abs().max() / true.std())
        return found

    before = shifts(model)
    assert set(correct_biases(model, spec, layers, samples, reference)) == set(NAMES)
    after = shifts(model)
    assert max(before.values()) > 0.01
    assert max(after.values()) < 1e-4


def _output(model: nn.Module, spec: ModelSpec, samples: Samples, name: str) -> Tensor:
    """What the layer ``name`` gives, after its batch norm."""
    caught: list[Tensor] = []
    (layer,) = (each for each in find_layers(model, spec, samples) if each.name == name)
    handle = layer.end.register_forward_hook(lambda _module, _inputs, output: caught.append(output.detach()))
    outputs_of(model, spec, samples)
    handle.remove()
    return caught[0]


def test_pairs_are_those_that_scales_pass_between_and_equalizing_changes_no_output(
    network: tuple[nn.Module, ModelSpec, Samples],
) -> None:
    model, spec, samples = network
    layers = fold(model, spec, samples)
    with torch.no_grad():  # one channel far larger than the others
        for tensor in (layers[3].module.weight, model.get_submodule("depthwise.1").bias):
            tensor[5] *= 40  # type: ignore[index,operator]
        model.get_submodule("project.0").weight[:, 5] /= 40  # type: ignore[index,operator]
    before = outputs_of(model, spec, samples)
    pairs = find_pairs(model, spec, layers, samples)
    # Behind the stem two layers take the channels, behind the branches a concatenation, behind the projection a sum.
    assert [(each.first.name, each.second.name) for each in pairs] == [("depthwise.0", "project.0")]

    def spread() -> float:
        largest = _output(model, spec, samples, "depthwise.0").clamp_min(0).amax((0, 2, 3))
        return float(largest.max() / largest[largest > 0].median())

    uneven = spread()
    equalize(model, spec, pairs, samples)
    torch.testing.assert_close(outputs_of(model, spec, samples), before, rtol=1e-4, atol=1e-4)
    assert spread() < uneven / 3


@pytest.mark.parametrize("name", ["right.0", "depthwise.0"])
def test_learned_rounding_has_less_noise_than_nearest_on_samples_it_has_not_seen(
    name: str, trained: Exported, network: tuple[nn.Module, ModelSpec, Samples]
) -> None:
    model, spec, samples = network
    (layer,) = (each for each in fold(model, spec, samples) if each.name == name)
    learned = learn_rounding(layer, inputs_of(model, spec, [layer], samples)[name], seed=0)
    held_out = {"image": torch.from_numpy(trained.data.batch(trained.data.splits.validation[:200])["image"])}
    inputs = inputs_of(model, spec, [layer], held_out)[name]
    assert output_noise(layer, inputs, learned) < output_noise(layer, inputs, nearest(layer.weight))
    _check_on_grid(layer, learned)


def _check_on_grid(layer: Layer, learned: Tensor) -> None:
    steps = learned / scales(layer.weight)
    assert (steps - steps.round()).abs().max() < 1e-3
    assert (learned - layer.weight).abs().max() <= scales(layer.weight).max() * 1.001  # up or down, no further
    torch.testing.assert_close(scales(learned), scales(layer.weight))


@pytest.fixture(scope="module")
def rounded(trained: Exported, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """Weights whose rounding was learned, and their steps by layer."""
    folder = tmp_path_factory.mktemp("rounded")
    np.savez(folder / "samples.npz", image=trained.images)
    out = folder / "rounded.safetensors"
    samples, weights = str(folder / "samples.npz"), str(trained.weights)
    facts = improve_weights(trained.spec.to_json(), weights, samples, "rounded", str(out), 0)
    assert (facts["folded"], facts["corrected"]) == (5, 6)
    assert facts["rounded"]
    assert all(learned <= near for near, learned in facts["rounded"].values())
    model = load(trained.spec, out)
    steps = {}
    for name in facts["rounded"]:
        weight: Tensor = model.get_submodule(name).weight.detach()  # type: ignore[operator]
        steps[name] = torch.round(weight / scales(weight)).numpy()
        assert np.abs((weight / scales(weight)).numpy() - steps[name]).max() < 1e-3
    return out, steps


def test_rounded_weights_are_found_again_in_the_int8_onnx_file(
    rounded: tuple[Path, dict[str, np.ndarray]], trained: Exported, tmp_path: Path
) -> None:
    """Of the whole path: treated in PyTorch, exported in float32, quantized by ONNX Runtime."""
    weights, steps = rounded
    export_onnx(trained.spec.to_json(), str(weights), str(tmp_path / "fp32.onnx"))
    quantize_onnx(str(tmp_path / "fp32.onnx"), trained.calibration, str(tmp_path / "int8.onnx"))
    constants = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    for name, expected in steps.items():
        assert np.array_equal(constants[f"{name}.weight_quantized"], expected)


@pytest.mark.slow
def test_rounded_weights_are_found_again_in_the_int8_tflite_file(
    rounded: tuple[Path, dict[str, np.ndarray]], trained: Exported, tmp_path: Path
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    weights, steps = rounded
    export_tflite(trained.spec.to_json(), str(weights), str(tmp_path / "fp32.tflite"))
    quantize_tflite(str(tmp_path / "fp32.tflite"), trained.calibration, str(tmp_path / "int8.tflite"))
    interpreter = Interpreter(str(tmp_path / "int8.tflite"))
    interpreter.allocate_tensors()
    found = []
    for details in interpreter.get_tensor_details():
        if details["dtype"] == np.int8 and len(details["quantization_parameters"]["scales"]) > 1:
            found.append(interpreter.get_tensor(details["index"]))
    for expected in steps.values():
        # Convolutions are stored [out, height, width, in], those of one channel each [1, height, width, channels].
        shapes = [expected] if expected.ndim == 2 else [expected.transpose(0, 2, 3, 1), expected.transpose(1, 2, 3, 0)]
        assert any(np.array_equal(each, shape) for each in found for shape in shapes)
