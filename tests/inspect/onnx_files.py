"""Small ONNX files made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None] | None


def write(
    path: Path, nodes: list[onnx.NodeProto], inputs: Mapping[str, Shape], outputs: Mapping[str, Shape],
    constants: Mapping[str, NDArray[Any] | np.generic], opset: int = 21, types: dict[str, int] | None = None, **more: Any,
) -> Path:  # fmt: skip
    """Write a graph; inputs and outputs are floats unless ``types`` says otherwise."""
    types = types or {}

    def values(each: Mapping[str, Shape]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shape) for name, shape in each.items()]

    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), stored)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10, **more), path)
    return path


def qdq(path: Path, zero: int = 3, activations: str = "int8") -> Path:
    """Write ``MatMul -> Relu -> Softmax``, the first two with integers around them, the last on floats."""
    scale, point = np.float32(0.1), np.array(zero, activations)
    constants: dict[str, NDArray[Any]] = {
        "s": np.asarray(scale), "z": point, "ws": np.full(5, 0.02, np.float32), "wz": np.zeros(5, np.int8),
        "w": np.arange(-10, 10, dtype=np.int8).reshape(4, 5),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["h"]),
        helper.make_node("QuantizeLinear", ["h", "s", "z"], ["hq"]),
        helper.make_node("DequantizeLinear", ["hq", "s", "z"], ["hd"]),
        helper.make_node("Relu", ["hd"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["rq"]),
        helper.make_node("DequantizeLinear", ["rq", "s", "z"], ["rd"]),
        helper.make_node("Softmax", ["rd"], ["y"]),
    ]
    return write(path, nodes, {"x": ["n", 4]}, {"y": ["n", 5]}, constants)
