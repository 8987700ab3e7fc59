"""ONNX files made by hand, and what is read from them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import ModelError, UsageError
from edgekd.inspect.graph import GraphDescription, graph_from_json
from edgekd.inspect.onnx import describe_onnx
from tests.inspect.onnx_files import write

F4 = np.ones((4, 4), np.float32)


def _read(path: Path) -> GraphDescription:
    return graph_from_json(describe_onnx(str(path)))


def test_open_batches_are_one_and_other_open_sizes_unknown(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    path = write(tmp_path / "m.onnx", nodes, {"x": ["n", "words", 4]}, {"y": ["n", "words", 4]}, {"w": F4})
    graph = _read(path)
    assert graph.tensors["x"].declared == ("n", "words", 4)
    assert graph.tensors["x"].shape == graph.tensors["y"].shape == (1, None, 4)
    assert graph.tensors["y"].bytes is None
    assert graph.operators[0].macs is None
    assert graph.operators[1].macs == 0
    fixed = write(tmp_path / "f.onnx", nodes, {"x": ["n", 3, 4]}, {"y": ["n", 3, 4]}, {"w": F4})
    assert (_read(fixed).operators[0].macs, _read(fixed).tensors["y"].bytes) == (3 * 4 * 4, 48)


def test_constant_nodes_and_functions_are_no_operators(tmp_path: Path) -> None:
    body = [helper.make_node("MatMul", ["a", "b"], ["c"]), helper.make_node("Relu", ["c"], ["d"])]
    function = helper.make_function("own", "Dense", ["a", "b"], ["d"], body, [helper.make_opsetid("", 21)])
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(F4)),
        helper.make_node("Constant", [], ["shape"], value_ints=[1, 4]),
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Dense", ["r", "w"], ["y"], domain="own"),
    ]
    graph = _read(write(tmp_path / "m.onnx", nodes, {"x": ["n", 2, 2]}, {"y": ["n", 4]}, {}, functions=[function]))
    assert [each.kind for each in graph.operators] == ["Reshape", "MatMul", "Relu"]
    assert [each.macs for each in graph.operators] == [0, 16, 0]
    assert graph.operators[1].weight_bytes == 64
    weight = next(each for each in graph.tensors.values() if each.role == "weight")
    assert (weight.elements, weight.bytes) == (16, 64)
    assert graph.tensors["shape"].role == "constant"


def test_roles_of_constants(tmp_path: Path) -> None:
    constants = {
        "w": F4, "half": np.asarray(np.float32(0.5)), "table": np.ones((9, 4), np.float32), "bias": np.ones(1, np.float32),
        "one": np.ones((1, 4), np.float32), "axes": np.array([0]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Mul", ["e", "half"], ["m"]),
        helper.make_node("Gemm", ["m", "one", "bias"], ["g"], transB=1),
        helper.make_node("Neg", ["w"], ["negative"]),
        helper.make_node("MatMul", ["m", "negative"], ["y"]),
        helper.make_node("Unsqueeze", ["g", "axes"], ["z"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"ids": ["n"]}, {"y": ["n", 4], "z": [1, "n", 1]}, constants, types={"ids": TensorProto.INT64})  # fmt: skip
    graph = _read(path)
    roles = {name: graph.tensors[name].role for name in (*constants, "negative", "m")}
    assert roles == {
        "w": "weight", "half": "constant", "table": "weight", "bias": "weight", "one": "weight", "axes": "constant",
        "negative": "derived", "m": "activation",
    }  # fmt: skip
    by_name = {each.name: each for each in graph.operators}
    assert graph.is_folded(by_name["negative"])
    assert (by_name["y"].weight_bytes, by_name["negative"].weight_bytes, by_name["g"].weight_bytes) == (64, 0, 20)


def test_dynamic_ranges_scales_are_no_weights(tmp_path: Path) -> None:
    constants: dict[str, Any] = {"w": np.ones((4, 4), np.int8), "ws": np.ones(4, np.float32), "wz": np.zeros(4, np.int8)}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["xq", "w", "xz", "wz"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "ws"], ["s"]),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    graph = _read(write(tmp_path / "m.onnx", nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, constants))
    assert [name for name, each in graph.tensors.items() if each.role == "weight"] == ["w"]
    assert {each.kind: each.macs for each in graph.operators}["MatMulInteger"] == 16


def test_costs_of_rarer_operators(tmp_path: Path) -> None:
    constants = {
        "t": np.ones((4, 2, 3, 3), np.float32), "a": F4, "lw": np.ones((1, 8, 3), np.float32), "lr": np.ones((1, 8, 2), np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("ConvTranspose", ["x", "t"], ["u"], strides=[2, 2]),
        helper.make_node("Gemm", ["a", "b"], ["g"], transA=1),
        helper.make_node("Einsum", ["b", "a"], ["e"], equation="ij,jk->ik"),
        helper.make_node("LSTM", ["l", "lw", "lr"], ["h"], hidden_size=2),
        helper.make_node("Attention", ["q", "q", "q"], ["o"], domain="com.microsoft"),
    ]
    inputs: dict[str, Any] = {"x": ["n", 4, 5, 5], "b": [4, 4], "l": [7, 1, 3], "q": [1, 2, 3, 4]}
    outputs: dict[str, Any] = {"u": ["n", 2, 11, 11], "g": [4, 4], "e": [4, 4], "h": [7, 1, 1, 2], "o": None}
    path = write(tmp_path / "m.onnx", nodes, inputs, outputs, constants)
    assert {each.name: each.macs for each in _read(path).operators} == {
        "u": 4 * 25 * 2 * 9, "g": 64, "e": 64, "h": 7 * (8 * 3 + 8 * 2), "o": None,
    }  # fmt: skip


def test_graphs_inside_operators_are_counted_not_entered(tmp_path: Path) -> None:
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["b"])], "b", [], [helper.make_tensor_value_info("b", 1, None)])
    nodes = [helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)]
    graph = _read(write(tmp_path / "m.onnx", nodes, {"x": ["n", 4]}, {"y": None}, {"flag": np.asarray(True)}))
    assert graph.subgraphs == 2
    assert graph.operators[0].macs is None
    assert not graph.is_folded(graph.operators[0])


def test_what_the_file_tells_about_itself(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        {"x": ["n", 4]},
        {"y": ["n", 4]},
        {},
        producer_name="me",
        producer_version="2",
    )
    model = onnx.load(path)
    helper.set_model_props(model, {"labels": "cat,dog"})
    onnx.save(model, path)
    metadata = _read(path).metadata
    assert (metadata["producer"], metadata["labels"], metadata["ir version"]) == ("me 2", "cat,dog", "10")
    assert metadata["opset"].startswith("ai.onnx 21")


def test_weights_in_another_file_are_counted_and_elsewhere_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 4]}, {"y": ["n", 4]}, {"w": F4}
    )
    onnx.save(onnx.load(path), tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    assert _read(tmp_path / "e.onnx").operators[0].weight_bytes == 64
    (tmp_path / "inner").mkdir()
    model = onnx.load(tmp_path / "e.onnx", load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../e.data"
    (tmp_path / "inner" / "e.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside its folder"):
        describe_onnx(str(tmp_path / "inner" / "e.onnx"))


def test_every_cut_is_told(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 4]}, {"y": ["n", 4]}, {"w": F4}
    )
    model = onnx.load(path)
    del model.opset_import[1:]  # a file that ends before its last import is a whole one
    content = model.SerializeToString()
    for length in range(1, len(content), 3):
        path.write_bytes(content[:length])
        with pytest.raises((UsageError, ModelError)) as error:
            describe_onnx(str(path))
        assert "\n" not in error.value.message


def test_absurd_sizes_are_unknown(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    graph = _read(write(tmp_path / "m.onnx", nodes, {"x": [2**60] * 300}, {"y": [2**60] * 300}, {}))
    assert graph.tensors["x"].bytes is None
    assert graph.tensors["y"].elements is None
