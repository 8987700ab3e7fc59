"""Kernels: what networks of known layers compute, from files of both formats, against counts by hand."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.devices.features import FEATURES, features_of, kernel_features, winograd_share
from edgekd.devices.kernels import KINDS, Kernel, convolution_kind, kernels_of, unknown_operators
from edgekd.devices.model_table import model_at, published_models
from edgekd.export.onnx import export_onnx
from edgekd.export.tflite import export_tflite
from edgekd.inspect.graph import GraphDescription, OperatorDescription, TensorDescription, graph_from_json
from edgekd.inspect.integer import fuse
from edgekd.inspect.onnx import describe_onnx
from edgekd.inspect.tflite import describe_tflite
from edgekd.models.spec import build, save_weights
from edgekd.quantize.onnx import quantize_onnx
from tests.models.zoo_specs import random_inputs, spec_for


def _macs_of_convolutions(model: nn.Module, size: int) -> Counter[str]:
    """Count multiply-accumulates by class with hooks of PyTorch."""
    found: Counter[str] = Counter()

    def count(module: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        if isinstance(module, nn.Linear):
            found["dense"] += module.in_features * module.out_features
            return
        assert isinstance(module, nn.Conv2d)
        height, width = made.shape[2:]
        per_place = module.in_channels // module.groups * module.out_channels * int(np.prod(module.kernel_size))
        size_of_filter = (module.kernel_size[0], module.kernel_size[1])
        found[convolution_kind(module.groups, module.in_channels, size_of_filter, module.stride[0])] += (
            per_place * height * width
        )

    for each in model.modules():
        if isinstance(each, nn.Conv2d | nn.Linear):
            each.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    return found


@pytest.mark.parametrize("format_name", ["onnx", pytest.param("tflite", marks=pytest.mark.slow)])
def test_files_of_a_network_have_the_kernels_that_pytorch_runs(format_name: str, tmp_path: Path) -> None:
    spec = spec_for("resnet8", 10, {}, 32)
    torch.manual_seed(0)
    model = build(spec).eval()
    expected = _macs_of_convolutions(model, 32)
    weights = str(tmp_path / "weights")
    save_weights(model, Path(weights))
    paths = [str(tmp_path / f"m.{format_name}")]
    if format_name == "tflite":
        export_tflite(spec.to_json(), weights, paths[0])
    else:
        calibration = tmp_path / "calibration.npz"
        np.savez(calibration, allow_pickle=False, **{each: value.numpy() for each, value in random_inputs(spec, 2).items()})
        export_onnx(spec.to_json(), weights, paths[0])
        quantize_onnx(paths[0], str(calibration), str(tmp_path / "q.onnx"))
        paths.append(str(tmp_path / "q.onnx"))
    for path in paths:
        graph = fuse(graph_from_json(describe_onnx(path) if format_name == "onnx" else describe_tflite(path)))
        kernels = kernels_of(graph)
        macs: Counter[str] = Counter()
        for each in kernels:
            macs[each.kind] += each.macs
        assert {kind: count for kind, count in macs.items() if count} == dict(expected), path
        assert not unknown_operators(graph), path
        assert sum(each.macs > 0 for each in kernels) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())


def _graph(operators: list[OperatorDescription], tensors: list[TensorDescription]) -> GraphDescription:
    return GraphDescription("onnx", {each.name: each for each in tensors}, tuple(operators), ("x",), ("y",), {})


def _tensor(name: str, shape: tuple[int | None, ...], role: str = "activation") -> TensorDescription:
    return TensorDescription(name, shape, "float32", None, role)  # type: ignore[arg-type]


def test_an_activation_joins_its_convolution_unless_its_input_is_read_elsewhere() -> None:
    tensors = [_tensor(name, (1, 8, 4, 4)) for name in "xaby"]
    tensors += [_tensor("w", (8, 8, 3, 3), "weight")]
    convolution = OperatorDescription("conv", "Conv", ("x", "w"), ("a",), 8 * 8 * 9 * 16, 0)
    relu = OperatorDescription("relu", "Relu", ("a",), ("y",), 0, 0)
    (only,) = kernels_of(_graph([convolution, relu], tensors))
    assert only == Kernel("conv", "conv3x3", 9216, 576, 128, 128, 1, 3, 8)
    add = OperatorDescription("add", "Add", ("a", "b"), ("y",), 0, 0)
    relu = OperatorDescription("relu", "Relu", ("a",), ("b",), 0, 0)
    assert [each.kind for each in kernels_of(_graph([convolution, relu, add], tensors))] == [
        "conv3x3", "elementwise", "elementwise",
    ]  # fmt: skip


def test_a_size_that_is_open_makes_the_operator_known_as_unknown() -> None:
    tensors = [_tensor("x", (1, 8, None, None)), _tensor("y", (1, 8, None, None)), _tensor("w", (8, 8, 1, 1), "weight")]
    graph = _graph([OperatorDescription("conv", "Conv", ("x", "w"), ("y",), None, 0)], tensors)
    assert unknown_operators(graph) == ("conv",)
    assert kernels_of(graph)[0].macs == 0


@pytest.mark.parametrize(
    ("groups", "size", "stride", "kind"),
    [(1, (1, 1), 1, "pointwise"), (1, (3, 3), 1, "conv3x3"), (1, (3, 3), 2, "conv"), (1, (5, 5), 1, "conv"),
     (16, (3, 3), 1, "depthwise"), (4, (1, 1), 1, "grouped")],
)  # fmt: skip
def test_classes_of_convolutions(groups: int, size: tuple[int, int], stride: int, kind: str) -> None:
    assert convolution_kind(groups, 16, size, stride) == kind


def test_every_class_counts_its_multiplications_once() -> None:
    for kind in KINDS:
        kernel = Kernel("k", kind, 9 * 16 * 16 * 64, 16 * 16 * 9, 1024, 16 * 64, 1, 3, 16)
        found = dict(zip(FEATURES, kernel_features(kernel), strict=True))
        macs = [name for name, value in found.items() if name.endswith("_macs") and value and name != "winograd_macs"]
        assert len(macs) <= 1 and found["kernels"] == 1
        assert all(value >= 0 for value in found.values())


def test_winograds_share_is_that_of_its_tiles() -> None:
    assert winograd_share(36.0) == pytest.approx(64 / (36 * 9))  # one tile of 6 x 6: 64 multiplications in place of 324
    assert winograd_share(16.0) == pytest.approx(36 / (16 * 9))
    assert winograd_share(1.0) == pytest.approx(16 / 9)  # a tile for a single output is more work, not less


def test_a_network_is_the_sum_of_its_kernels_and_its_input() -> None:
    kernels = [Kernel("a", "pointwise", 100, 10, 20, 30), Kernel("b", "dense", 50, 50, 5, 10)]
    total = features_of(kernels)
    expected = kernel_features(kernels[0]) + kernel_features(kernels[1])
    expected[FEATURES.index("input_values")] += 20
    np.testing.assert_array_equal(total, expected)


def test_published_models_match_the_counts_of_their_publishers() -> None:
    # From the tables of the papers, in millions of multiply-accumulates.
    known = {
        ("mobilenet_v1_1.0", "224x224"): 569, ("mobilenet_v2_1.0", "224x224"): 300, ("mobilenet_v3_large_1.0", "224x224"): 219,
        ("mobilenet_v3_large_0.75", "224x224"): 155, ("resnet50_v1.5", "224x224"): 4089, ("squeezenet_1.1", "224x224"): 349,
        ("efficientnet_b0", "224x224"): 390, ("densenet121", "224x224"): 2834, ("vgg16", "224x224"): 15470,
    }  # fmt: skip
    direct = [FEATURES.index(name) for name in FEATURES if name.endswith("_macs") and name != "winograd_macs"]
    for model, millions in known.items():
        features = model_at(*model)
        assert features is not None
        macs = features[direct].sum() + features[FEATURES.index("dense_weights")]
        assert macs / 1e6 == pytest.approx(millions, rel=0.015), model


def test_published_models_match_an_independent_count() -> None:
    folder = os.environ.get("EDGEKD_DATA")
    path = Path(folder or "no-data") / "devices" / "mobilenet_grid_macs.csv"
    if not path.is_file():
        pytest.skip("EDGEKD_DATA names no folder with devices/mobilenet_grid_macs.csv")
    import csv

    compared = 0
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            features = model_at(row["model"], row["input"])
            if features is None or row["model"] in ("mobilenet_v3_large_0.75", "mobilenet_v3_small_0.75"):
                continue  # those of the table expand as PyTorch's do; TensorFlow's, which were measured, by a ratio
            found = dict(zip(FEATURES, features, strict=True))
            assert found["pointwise_macs"] + found["dense_weights"] == pytest.approx(
                float(row["macs_pointwise"]) + float(row["macs_fc"]), rel=0.02
            ), row["model"]
            assert found["depthwise_macs"] == float(row["macs_depthwise"]), row["model"]
            assert found["conv_macs"] == float(row["macs_other_conv"]), row["model"]
            assert found["depthwise_values"] == pytest.approx(float(row["depthwise_io_elems"]), rel=0.03), row["model"]
            compared += 1
    assert compared > 40


def test_the_table_is_whole() -> None:
    assert len(published_models()) > 150
    for name, features in published_models().items():
        assert np.isfinite(features).all() and (features >= 0).all(), name
        assert features[FEATURES.index("kernels")] > 5, name
