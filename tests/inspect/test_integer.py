"""Fused operators against what ONNX Runtime makes of the same file."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekd.inspect.delegates import judge, runtimes
from edgekd.inspect.graph import GraphDescription, graph_from_json
from edgekd.inspect.integer import fuse
from edgekd.inspect.memory import peak_memory
from edgekd.inspect.onnx import describe_onnx
from tests.inspect.onnx_files import qdq, write


def _kinds(graph: GraphDescription) -> list[str]:
    return [each.kind for each in graph.operators]


def test_operators_between_quantizers_are_fused(tmp_path: Path) -> None:
    graph = graph_from_json(describe_onnx(str(qdq(tmp_path / "m.onnx"))))
    fused = fuse(graph)
    assert _kinds(fused) == ["QuantizeLinear", "MatMul", "Relu", "DequantizeLinear", "Softmax"]
    matmul = fused.operators[1]
    assert (matmul.inputs, matmul.outputs, matmul.macs, matmul.weight_bytes) == (("xq", "w"), ("hq",), 20, 20)
    assert [fused.tensors[name].dtype for name in (*matmul.inputs, *matmul.outputs)] == ["int8"] * 3
    # Softmax, on floats: 5 in, 5 out. Unfused, the matrix product already had 4 and 5 floats.
    assert peak_memory(fused).bytes == (5 + 5) * 4
    assert peak_memory(fused).operator == "y"


def _optimised(path: Path, out: Path) -> Counter[str]:
    """Return the operators that ONNX Runtime makes of a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(out).graph.node)


def test_onnx_runtime_fuses_the_same_but_for_what_it_has_no_integer_kernel_for(tmp_path: Path) -> None:
    path = qdq(tmp_path / "m.onnx", 0)
    theirs, fused = _optimised(path, tmp_path / "o.onnx"), fuse(graph_from_json(describe_onnx(str(path))))
    assert theirs["QLinearMatMul"] == _kinds(fused).count("MatMul") == 1
    mobile = next(each for each in judge(fused) if each.runtime.id == "ort-mobile")
    assert mobile.notes == ("no integer kernels, so in float between two conversions: Relu x1",)
    assert theirs["QuantizeLinear"] == _kinds(fused).count("QuantizeLinear") + 1


KINDS = {"Add": 2, "Sub": 2, "Mul": 2, "Div": 2, "Sigmoid": 1, "LeakyRelu": 1, "Tanh": 1, "Softmax": 1, "MatMul": 2, "Concat": 2,
         "GlobalAveragePool": 1, "ReduceMean": 1, "ReduceMax": 1, "Transpose": 1, "Flatten": 1, "Elu": 1, "Gelu": 1}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_integer_kernels_are_those_of_the_table(kind: str, tmp_path: Path) -> None:
    import onnxruntime

    table = next(each for each in runtimes() if each.id == "ort-mobile")
    if f"onnxruntime {onnxruntime.__version__}" not in table.version:
        pytest.skip(f"the table describes {table.version}")
    nodes, names = [], [f"x{index}" for index in range(KINDS[kind])]
    for name in (*names, "o"):
        node = [
            helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_d" if name != "o" else "y"]),
        ]
        if name == "o":
            more: dict[str, Any] = {"axis": 1} if kind == "Concat" else {}
            nodes.append(helper.make_node(kind, [f"{each}_d" for each in names], ["o"], **more))
        nodes += node
    shape = [1, 4, 4, 4]
    constants: dict[str, Any] = {"s": np.asarray(np.float32(0.1)), "z": np.array(128, np.uint8)}
    path = write(
        tmp_path / "m.onnx", nodes, dict.fromkeys(names, shape), {"y": [None] * (2 if kind == "Flatten" else 4)}, constants
    )
    theirs = _optimised(path, tmp_path / "o.onnx")
    assert (theirs["QuantizeLinear"] == len(names)) == (kind in (table.integer or ()))


def test_what_feeds_floats_too_is_not_fused(tmp_path: Path) -> None:
    path = qdq(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, ["n", 5]))
    onnx.save(model, path)
    fused = fuse(graph_from_json(describe_onnx(str(path))))
    assert _kinds(fused) == [
        "DequantizeLinear", "QuantizeLinear", "DequantizeLinear", "MatMul", "QuantizeLinear", "Relu", "DequantizeLinear",
        "Softmax",
    ]  # fmt: skip


def test_weights_alone_in_integers_leave_the_operator_in_float(tmp_path: Path) -> None:
    path = qdq(tmp_path / "m.onnx")
    model = onnx.load(path)
    kept = [node for node in model.graph.node if node.output[0] in {"wd", "h"}]
    kept[1].input[0], kept[1].output[0] = "x", "y"
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.save(model, path)
    graph = graph_from_json(describe_onnx(str(path)))
    assert _kinds(fuse(graph)) == ["DequantizeLinear", "MatMul"]
    assert graph.is_folded(graph.operators[0])
    assert graph.tensors["wd"].role == "derived"
    assert graph.operators[1].weight_bytes == 20
