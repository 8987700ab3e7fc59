"""Which layer differs first: faults planted in known layers of ONNX and TFLite files, against PyTorch and each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgekd.compare.activations import Activation, capture_file, capture_module
from edgekd.compare.layers import CLEAN_DB, Layer, short_name, walk
from edgekd.compare.pairing import Pair, pair_layers
from edgekd.data.dataset import Dataset
from edgekd.export.onnx import export_onnx
from edgekd.models.spec import build, save_weights
from edgekd.models.tensors import ModelSpec, classifier
from edgekd.quantize.onnx import quantize_onnx
from edgekd.quantize.tflite import quantize_tflite
from edgekd.safe.child import run_in_child
from tests.digits_data import digits_data
from tests.model_surgery import Array, Tflite, edit_onnx


@dataclass(frozen=True)
class Network:
    """A residual network, untrained but with lively batch norms, in PyTorch and four files."""

    spec: ModelSpec
    module: torch.nn.Module
    samples: dict[str, Array]
    folder: Path

    def file(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder = tmp_path_factory.mktemp("layers")
    data: Dataset = digits_data(folder / "data")
    spec = classifier("zoo:resnet8", data.inputs, data.classes)
    torch.manual_seed(3)
    module = build(spec).eval()
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, torch.nn.BatchNorm2d):
                each.weight.uniform_(0.7, 1.4)
                each.bias.uniform_(-0.5, 0.8)
                each.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
    save_weights(module, folder / "weights.safetensors")
    weights = str(folder / "weights.safetensors")
    export_onnx(spec.to_json(), weights, str(folder / "fp32.onnx"))
    run_in_child(
        "edgekd.export.tflite:export_tflite",
        {"spec": spec.to_json(), "weights": weights, "out": str(folder / "fp32.tflite")}, log=folder / "log",
    )  # fmt: skip
    np.savez(folder / "calibration.npz", allow_pickle=False, **data.batch(data.splits.train[:64]))
    quantize_onnx(str(folder / "fp32.onnx"), str(folder / "calibration.npz"), str(folder / "int8.onnx"))
    quantize_tflite(str(folder / "fp32.tflite"), str(folder / "calibration.npz"), str(folder / "int8.tflite"))
    return Network(spec, module, data.batch(data.splits.test[:24]), folder)


def _seen(network: Network, source: str | Path, out: Path) -> list[Activation]:
    """Return the activations of the module, or of a file, on the same samples."""
    out.mkdir()
    samples = {name: np.ascontiguousarray(values) for name, values in network.samples.items()}
    if source == "pytorch":

        def run(arrays: dict[str, Array]) -> Any:
            with torch.no_grad():
                return network.module(torch.from_numpy(arrays["image"]))

        return capture_module(network.module, run, samples, out)
    path = Path(source)
    if path.suffix == ".tflite":
        samples = {"image": np.ascontiguousarray(samples["image"].transpose(0, 2, 3, 1))}
    np.savez(out / "inputs.npz", allow_pickle=False, **samples)
    rows = capture_file(str(path), path.suffix[1:], str(out / "inputs.npz"), str(out))
    return [Activation(each["name"], each["operator"], tuple(each["sources"]), Path(each["file"])) for each in rows]


def _compared(network: Network, a: str | Path, b: str | Path, precision: str, folder: Path) -> list[Layer]:
    first, second = _seen(network, a, folder / "a"), _seen(network, b, folder / "b")
    pairs = pair_layers([each.file for each in first], [each.file for each in second])
    return walk(first, second, pairs, CLEAN_DB[precision])


def _first(layers: list[Layer]) -> Layer | None:
    return next((each for each in layers if each.sharp), None)


@pytest.mark.parametrize(("a", "b", "precision", "least"), [
    ("pytorch", "fp32.onnx", "fp32", 100), ("pytorch", "fp32.tflite", "fp32", 100), ("fp32.onnx", "fp32.tflite", "fp32", 100),
    ("pytorch", "int8.onnx", "int8", 20), ("pytorch", "int8.tflite", "int8", 20), ("fp32.onnx", "int8.tflite", "int8", 20),
    ("int8.onnx", "pytorch", "int8", 20),
])  # fmt: skip
def test_equal_networks_have_no_first_layer(
    network: Network, tmp_path: Path, a: str, b: str, precision: str, least: float
) -> None:
    sides = [each if each == "pytorch" else network.file(each) for each in (a, b)]
    layers = _compared(network, sides[0], sides[1], precision, tmp_path)
    assert _first(layers) is None
    assert len(layers) >= 8
    # The last layer is the network's output, and it is paired with the right one.
    assert layers[-1].sqnr_db > least


def scaled(values: Array) -> Array:
    return (values * 3).astype(values.dtype)


def zeroed(values: Array) -> Array:
    return np.zeros_like(values)


def swapped(values: Array) -> Array:
    return values[[1, 0, *range(2, len(values))]]


def _convolutions(path: Path) -> list[onnx.NodeProto]:
    return [node for node in onnx.load(path).graph.node if node.op_type in {"Conv", "Gemm"}]


def _plant_onnx(source: Path, out: Path, index: int, change: Callable[[Array], Array]) -> str:
    """Change the constant of one layer and return the name of its output: scales by their scale, biases, or weights."""
    model = onnx.load(source)
    node = _convolutions(source)[index]
    producers = {name: each for each in model.graph.node for name in each.output}

    def constant(name: str, scale: bool) -> str:
        return producers[name].input[1 if scale else 0] if name in producers else name

    name = constant(node.input[2 if change is zeroed else 1], scale=change is scaled)

    def edit(constants: dict[str, Array]) -> None:
        constants[name] = change(constants[name])

    edit_onnx(source, out, edit)
    return str(node.output[0])


def _plant_tflite(source: Path, out: Path, index: int, change: Callable[[Array], Array]) -> str:
    model = Tflite(source)
    operator = model.operators("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")[index]
    tensor = operator.inputs[2 if change is zeroed else 1]
    if change is scaled and model.graph.tensors[tensor].quantization.scale is not None:
        model.scale(tensor, 3.0)
    else:
        axis = 3 if operator in model.operators("DEPTHWISE_CONV_2D") and change is swapped else 0
        model.put(tensor, np.moveaxis(change(np.moveaxis(model.values(tensor), axis, 0)), 0, axis))
    model.save(out)
    return str(model.graph.tensors[operator.outputs[0]].name.decode())


PLANTS = [
    ("pytorch", "fp32.onnx", 0, scaled), ("pytorch", "fp32.onnx", 3, zeroed), ("pytorch", "fp32.onnx", 5, swapped),
    ("pytorch", "int8.onnx", 1, scaled), ("pytorch", "int8.onnx", 4, zeroed), ("pytorch", "int8.onnx", 6, swapped),
    ("pytorch", "fp32.tflite", 1, swapped), ("pytorch", "fp32.tflite", 5, scaled),
    ("pytorch", "int8.tflite", 2, scaled), ("pytorch", "int8.tflite", 4, zeroed), ("pytorch", "int8.tflite", 6, swapped),
    ("fp32.onnx", "fp32.tflite", 3, scaled), ("fp32.onnx", "int8.tflite", 1, zeroed), ("fp32.onnx", "int8.tflite", -1, swapped),
    ("fp32.tflite", "int8.onnx", 2, swapped), ("fp32.tflite", "fp32.onnx", -1, scaled),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b", "index", "change"), PLANTS)
def test_the_layer_with_the_planted_fault_is_named(
    network: Network, tmp_path: Path, a: str, b: str, index: int, change: Callable[[Array], Array]
) -> None:
    planted = tmp_path / b
    plant = _plant_onnx if b.endswith("onnx") else _plant_tflite
    expected = plant(network.file(b), planted, index, change)
    precision = "int8" if "int8" in a + b else "fp32"
    layers = _compared(network, a if a == "pytorch" else network.file(a), planted, precision, tmp_path)
    first = _first(layers)
    assert first is not None
    assert first.b == expected, [(each.b[-60:], each.sqnr_db, each.fall_db, each.sharp) for each in layers]


def test_quantized_tensors_are_read_in_real_numbers(network: Network, tmp_path: Path) -> None:
    real, quantized = (
        _seen(network, network.file("fp32.tflite"), tmp_path / "a"),
        _seen(network, network.file("int8.tflite"), tmp_path / "b"),
    )
    names = {each.name: each for each in quantized}
    compared = 0
    for each in real:
        if each.name in names:
            one, two = np.load(each.file), np.load(names[each.name].file)
            assert two.dtype == np.float32
            assert np.abs(one - two).mean() < 0.05 * np.ptp(one)
            compared += 1
    assert compared > 8


def test_hooks_keep_what_an_activation_in_place_changes(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(inplace=True)).eval()
    given = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)

    def run(arrays: dict[str, Array]) -> Any:
        with torch.no_grad():
            return module(torch.from_numpy(arrays["x"]))

    seen = capture_module(module, run, {"x": given}, tmp_path)
    values = {each.name: np.load(each.file) for each in seen}
    assert values["0"].min() < 0
    np.testing.assert_array_equal(values["1"], np.maximum(values["0"], 0))
    assert not any(each._forward_hooks for each in module.modules())


def _files(folder: Path, arrays: list[Array]) -> list[Path]:
    folder.mkdir()
    for index, each in enumerate(arrays):
        np.save(folder / f"{index}.npy", each.astype(np.float32))
    return [folder / f"{index}.npy" for index in range(len(arrays))]


def test_pairs_keep_the_order_and_find_the_layout(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    a = [random.normal(size=(6, 4, 5, 7)) for _ in range(4)] + [random.normal(size=(6, 9, 1, 1))]
    b = [a[0].transpose(0, 2, 3, 1), a[2].transpose(0, 2, 3, 1), a[2].transpose(0, 2, 3, 1) + 0.001, a[4][:, :, 0, 0],
         random.normal(size=(6, 2))]  # fmt: skip
    pairs = pair_layers(_files(tmp_path / "a", a), _files(tmp_path / "b", b))
    assert [(each.a, each.b) for each in pairs] == [(0, 0), (2, 1), (2, 2), (4, 3)]
    assert [each.sqnr_db > 59 for each in pairs] == [True] * 4
    assert pairs[1].sqnr_db == 200


def test_noise_of_a_pair_is_that_of_its_definition(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    own = random.normal(2, 3, (8, 6, 6, 3)).astype(np.float32)
    other = own + random.normal(0, 0.1, own.shape).astype(np.float32)
    (pair,) = pair_layers(_files(tmp_path / "a", [own]), _files(tmp_path / "b", [other]))
    assert pair.sqnr_db == pytest.approx(10 * np.log10(np.square(own).sum() / np.square(own - other).sum()), abs=1e-3)
    assert pair.max_error == pytest.approx(np.abs(own - other).max() / np.ptp(own), rel=1e-5)


def _chain(*sources: tuple[int, ...]) -> list[Activation]:
    return [Activation(str(index), "op", each, Path()) for index, each in enumerate(sources)]


def test_what_recovers_was_no_fault_and_what_stays_is() -> None:
    graph = _chain((), (0,), (1,), (2,))
    modules = [Activation(str(index), "Module", None, Path()) for index in range(4)]

    def sharp(*ratios: float) -> list[bool]:
        pairs = [Pair(index, index, 1.0, ratio, 0.0) for index, ratio in enumerate(ratios)]
        return [each.sharp for each in walk(modules, graph, pairs, 30.0)]

    assert sharp(40, 3, 35, 34) == [False, False, False, False]
    assert sharp(40, 3, 4, 5) == [False, True, False, False]
    assert sharp(29, 26, 22, 18) == [False, False, False, False]


def test_along_unpaired_layers_the_worst_input_counts() -> None:
    graph = _chain((), (), (0, 1), (2,))
    modules = [Activation(str(index), "Module", None, Path()) for index in range(4)]
    pairs = [Pair(0, 0, 1.0, 40.0, 0.0), Pair(1, 1, 1.0, 12.0, 0.0), Pair(3, 3, 1.0, 11.0, 0.0)]
    found = {each.b: (each.fall_db, each.sharp) for each in walk(modules, graph, pairs, 30.0)}
    assert found == {"0": (-10.0, False), "1": (18.0, True), "3": (1.0, False)}


def test_names_of_the_converter_are_shortened_to_module_paths() -> None:
    path = "edgekd.export.tflite._Named/edgekd.models.cnn.PlainCNN_model/torch.nn.modules.container.Sequential_features/"
    assert short_name(path + "torch.nn.modules.activation.ReLU_2;;other;1") == "features.2:1"
    assert short_name("relu_1") == "relu_1"
