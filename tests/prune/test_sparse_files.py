"""Zeros as files have them: found again, or missed where they are not."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

import edgekd
from edgekd.prune.sparse_proof import zero_gates
from edgekd.prune.sparse_reader import deflated_size, look_at_zeros
from edgekd.prune.sparsity import check_pattern
from edgekd.report.report import Report
from edgekd.report.sparsity import SPEED

OVERRIDES = [
    "threads=1", "teacher.model=zoo:shallow_cnn", "teacher.check=false", "teacher.train.epochs=2", "distill.train.epochs=2",
    "distill.control=false", "prune.sparsity=2:4", "prune.steps=2", "prune.epochs=1", "quantize.weights=as-trained",
    "quantize.ranges=minmax", "export.artifacts=[onnx-fp32, onnx-int8, tflite-int8]", "benchmark.runs=10", "benchmark.warmup=0",
    "gates.int8_max_drop=100", "gates.int8_agreement=0.5", "gates.int8_sqnr_db=0", "gates.int8_gain_error=1",
]  # fmt: skip
"""A network that knows little is enough to have zeros."""


def _conv_and_dense(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return weights of a convolution and two linear layers, half of them zero by 2:4."""
    generator = np.random.default_rng(seed)
    weights = {"conv": (8, 4, 3, 3), "one": (8, 8), "two": (8, 8)}
    made = {}
    for name, shape in weights.items():
        values = generator.uniform(0.5, 1, shape).astype(np.float32)
        values[:, 0::4], values[:, 3::4] = 0, 0
        made[name] = values
    made["two"] = np.roll(made["two"], 1, 1)  # zeros elsewhere: layers alike in shape are told apart by them
    return made


def _int8(values: NDArray[np.float32], zero: int = 0) -> NDArray[np.int8]:
    return (np.round(values * 100) + zero).astype(np.int8)


def _onnx(path: Path, weights: dict[str, NDArray[np.float32]], how: str) -> Path:
    """Write the layers to a file, in one of the ways that exporters and quantizers have."""
    nodes, stored = [], []

    def keep(name: str, value: NDArray[Any]) -> str:
        stored.append(numpy_helper.from_array(value, name))
        return name

    def constant(name: str, value: NDArray[np.float32]) -> str:
        if how != "qdq":
            return keep(name, value)
        inputs = [keep(f"{name}_int", _int8(value)), keep(f"{name}_scale", np.full(len(value), 0.01, np.float32))]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [name], axis=0))
        return name

    conv, one, two = weights["conv"], weights["one"], weights["two"]
    if how == "integer":
        zeros = keep("conv_zero", np.full(8, 3, np.int8)), keep("one_zero", np.array(-2, np.int8))
        nodes.append(helper.make_node("ConvInteger", ["x", keep("w1", _int8(conv, 3)), keep("x_zero", np.array(0, np.uint8)),
                                                      zeros[0]], ["a"]))  # fmt: skip
        nodes.append(helper.make_node("MatMulInteger", ["b", keep("w2", _int8(one.T, -2)), "x_zero", zeros[1]], ["c"]))
        nodes.append(helper.make_node("MatMulInteger", ["c", keep("w3", _int8(two.T))], ["y"]))
    else:
        nodes.append(helper.make_node("Conv", ["x", constant("w1", conv)], ["a"]))
        nodes.append(helper.make_node("Gemm", ["b", constant("w2", one)], ["c"], transB=1))
        if how == "qdq":  # dequantized in the order of its rows, and turned by the graph
            nodes.append(helper.make_node("Transpose", [constant("w3_rows", two)], ["w3"], perm=[1, 0]))
            nodes.append(helper.make_node("MatMul", ["c", "w3"], ["y"]))
        else:
            nodes.append(helper.make_node("MatMul", ["c", constant("w3", two.T)], ["y"]))
        nodes.append(helper.make_node("MatMul", ["a", "a"], ["d"]))  # no weight at all
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "b")]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "a")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def _look(path: Path, expected: dict[str, NDArray[np.float32]], pattern: tuple[int, int] | None = (2, 4)) -> dict[str, Any]:
    weights = path.parent / "expected.safetensors"
    save_file({f"{name}.weight": np.ascontiguousarray(each) for name, each in expected.items()}, weights)
    return look_at_zeros(str(path), "onnx", str(weights), list(expected), pattern)


@pytest.mark.parametrize("how", ["float", "qdq", "integer"])
def test_zeros_are_found_however_they_are_stored(how: str, tmp_path: Path) -> None:
    weights = _conv_and_dense()
    path = _onnx(tmp_path / "it.onnx", weights, how)
    found = _look(path, weights)
    assert found == {
        "deflated_bytes": deflated_size(path.read_bytes()), "weights": 288 + 64 + 64, "zeros": 144 + 32 + 32, "lost": 0,
        "broken_groups": 0, "missing": [],
    }  # fmt: skip


@pytest.mark.parametrize("how", ["float", "qdq", "integer"])
def test_a_lost_zero_is_counted(how: str, tmp_path: Path) -> None:
    weights = _conv_and_dense()
    harmed = {name: each.copy() for name, each in weights.items()}
    harmed["conv"][2, 0, 1, 1] = 0.5
    harmed["two"][5, 1] = 0.5  # beside two others that are left
    found = _look(_onnx(tmp_path / "it.onnx", harmed, how), weights)
    assert (found["lost"], found["broken_groups"], found["zeros"], found["missing"]) == (2, 2, 206, [])
    # Zeros that were not asked for are no harm, and without a pattern there are no groups.
    harmed = {name: each.copy() for name, each in weights.items()}
    harmed["one"][:] = 0
    found = _look(_onnx(tmp_path / "it.onnx", harmed, how), weights, None)
    assert (found["lost"], found["broken_groups"], found["zeros"]) == (0, 0, 240)


def test_a_layer_that_is_not_there(tmp_path: Path) -> None:
    weights = _conv_and_dense()
    wanted = weights | {"gone": np.zeros((3, 4), np.float32)}
    found = _look(_onnx(tmp_path / "it.onnx", weights, "float"), wanted)
    assert found["missing"] == ["gone"] and found["lost"] == 12


def test_a_format_that_is_not_looked_into(tmp_path: Path) -> None:
    (tmp_path / "it.ort").write_bytes(b"anything" * 100)
    found = look_at_zeros(str(tmp_path / "it.ort"), "ort", "nowhere", ["conv"], None)
    assert found.pop("deflated_bytes") < 100 and set(found.values()) == {None}


def test_deflated_as_in_a_zip(tmp_path: Path) -> None:
    content = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    content[::2] = 0
    with zipfile.ZipFile(tmp_path / "it.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("it", content.tobytes())
    assert deflated_size(content.tobytes()) == archive.getinfo("it").compress_size < 0.7 * content.nbytes


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return edgekd.compress("digits", tmp_path_factory.mktemp("sparse") / "out", OVERRIDES)


def _onnx_layers(path: Path) -> list[NDArray[Any]]:
    """Weights of the convolutions behind the first and of the classifier, outputs first, as stored."""
    graph = onnx.load(path).graph
    stored = [numpy_helper.to_array(each) for each in graph.initializer]
    convolutions = [each for each in stored if each.ndim == 4 and each.shape[1] > 1]
    return [*convolutions, *[each if each.shape[0] == 10 else each.T for each in stored if each.ndim == 2]]


def _tflite_layers(path: Path) -> list[NDArray[Any]]:
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    shapes = {(16, 3, 3, 8): 3, (24, 3, 3, 16): 3, (10, 24): 1}
    return [
        np.moveaxis(interpreter.get_tensor(each["index"]), shapes[tuple(each["shape"])], 1)
        for each in interpreter.get_tensor_details() if tuple(each["shape"]) in shapes and each["dtype"] == np.int8
    ]  # fmt: skip


@pytest.mark.slow
def test_exported_files_hold_the_pattern(report: Report) -> None:
    """Read back without our reader: two of every four inputs are zero, in floats and in integers."""
    assert report.ok
    for each in report.artifacts:
        path = report.path(each.name)
        layers = _tflite_layers(path) if each.name == "tflite-int8" else _onnx_layers(path)
        assert sorted(layer.shape[:2] for layer in layers) == [(10, 24), (16, 8), (24, 16)]
        zeros = 0
        for layer in layers:
            groups = (layer != 0).reshape(layer.shape[0], -1, 4, int(np.prod(layer.shape[2:], dtype=int))).sum(2)
            assert groups.max() <= 2
            zeros += int((layer == 0).sum())
        assert each.zeros is not None and each.zeros.zeros == zeros and each.zeros.weights == 1152 + 3456 + 240
        assert (each.zeros.lost, each.zeros.broken_groups, each.zeros.missing) == (0, 0, [])
        assert each.zeros.deflated_bytes == deflated_size(path.read_bytes()) < each.zeros.size_bytes == path.stat().st_size


@pytest.mark.slow
def test_masks_were_kept_from_the_stage_that_set_them(report: Report) -> None:
    pruning = report.student.pruning
    assert pruning is not None and pruning.zeroed is not None
    first, last = pruning.zeros
    assert abs(first["share"] - 0.5 * (1 - (1 / 2) ** 3)) < 1e-3 and last["share"] == 0.5
    assert last["left_dense"] == {"features.0.0": "its 1 inputs are no whole number of groups of 4"}
    set_, after = load_file(pruning.zeroed[0]), load_file(report.student.weights)
    for each in last["layers"]:
        name = f"{each['layer']}.weight"
        np.testing.assert_array_equal(set_[name] == 0, after[name] == 0)
        assert not np.array_equal(set_[name], after[name])
        assert check_pattern(torch.from_numpy(after[name]), (2, 4)) == (after[name].size // 2, 0)


@pytest.mark.slow
def test_the_report_tells_of_it(report: Report) -> None:
    content = json.loads((report.folder / "report.json").read_text())
    assert [each["asked"] for each in content["pruning"]["zeros"]] == ["2:4", "2:4"] and content["pruning"]["cuts"] == []
    assert all(each["zeros"]["lost"] == 0 for each in content["artifacts"])
    gates = {each["name"]: each for each in content["gates"]}
    for name in ("onnx-fp32", "onnx-int8", "tflite-int8"):
        for what in ("weights that must be zero and are not", "groups that break the pattern 2:4"):
            assert gates[f"{name} {what}"]["passed"] and gates[f"{name} {what}"]["limit"] == 0
    for text in ((report.folder / "MODEL_CARD.md").read_text(), report.html.read_text()):
        assert "2:4 holds" in text and "deflated" in text and "sparsity 2:4" in text and "compute with zeros as with" in text
    assert "faster" in SPEED and "TensorRT" in SPEED


@pytest.mark.slow
def test_a_file_without_its_zeros_misses_its_gates(report: Report, tmp_path: Path) -> None:
    """The same look at a file whose weights were filled in."""
    pruning = report.student.pruning
    assert pruning is not None and pruning.zeroed is not None
    model = onnx.load(report.path("onnx-fp32"))
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.shape == (10, 24):
            tensor.CopyFrom(numpy_helper.from_array(np.where(values == 0, np.float32(1e-3), values), tensor.name))
    onnx.save(model, tmp_path / "harmed.onnx")
    layers = [each["layer"] for each in pruning.zeros[-1]["layers"]]
    found = look_at_zeros(str(tmp_path / "harmed.onnx"), "onnx", str(pruning.zeroed[0]), layers, (2, 4))
    assert found["lost"] == 120 and found["broken_groups"] == 60
    from edgekd.prune.sparse_proof import FileZeros

    gates = zero_gates(report.student, {"onnx-fp32": FileZeros(1, **found)})
    assert [gate.passed for gate in gates] == [False, False] and [gate.value for gate in gates] == [120, 60]


@pytest.mark.slow
def test_running_again_replays_everything(report: Report) -> None:
    again = edgekd.compress("digits", report.folder, OVERRIDES)
    assert not again.redone and again.to_json()["artifacts"] == report.to_json()["artifacts"]
