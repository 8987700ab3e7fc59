"""Which operators feed a logarithm, and so must not be quantized.

A logarithm makes small numbers count as much as large ones: of the power of a sound, which spans six orders of
magnitude, 256 even steps keep only the loudest. So what comes before a logarithm, as the front end of a sound
network, computes in float, and only its constants are stored as int8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_LEAST_VALUES = 1024
"""Constants smaller than this are not worth two more operators."""


def _feeding(operators: Sequence[tuple[bool, Iterable[Any], Iterable[Any]]]) -> list[int]:
    """Return the indices of operators that lead to a logarithm, which is among them.

    Args:
        operators: For each, in order of execution: whether it is a logarithm, what it takes, what it gives.
    """
    wanted: set[Any] = set()
    found = []
    for index in range(len(operators) - 1, -1, -1):
        is_logarithm, takes, gives = operators[index]
        if is_logarithm or wanted & set(gives):
            found.append(index)
            wanted |= set(takes)
    return found[::-1]


def nodes_feeding_logarithms(model: Any) -> list[str]:
    """Return the names of the nodes of an ONNX model that lead to a ``Log``; unnamed ones get a name."""
    nodes = model.graph.node
    chosen = _feeding([(node.op_type == "Log", node.input, node.output) for node in nodes])
    for index in chosen:
        nodes[index].name = nodes[index].name or f"node_{index}"
    return [nodes[index].name for index in chosen]


def tensors_feeding_logarithms(content: bytes) -> list[str]:
    """Return the names of the tensors of a TFLite file that lead to a ``LOG``, its inputs among them, or come out of it."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]

    def is_logarithm(operator: Any) -> bool:
        code = model.operatorCodes[operator.opcodeIndex]
        return bool(max(code.builtinCode, code.deprecatedBuiltinCode) == schema.BuiltinOperator.LOG)

    operators = graph.operators
    chosen = _feeding([(is_logarithm(each), each.inputs, each.outputs) for each in operators])
    given = set(graph.inputs) & {tensor for index in chosen for tensor in operators[index].inputs}
    made = [output for index in chosen for output in operators[index].outputs]
    return [graph.tensors[tensor].name.decode() for tensor in (*sorted(given), *made)]


def store_constants_in_int8(model: Any, names: Sequence[str]) -> None:
    """Store large float constants of the nodes ``names`` of an ONNX model as int8, with a scale per row.

    They are dequantized when the model is loaded; the nodes compute in float as before.
    """
    from onnx import helper, numpy_helper

    chosen = set(names)
    initializers = {each.name: each for each in model.graph.initializer}
    made: dict[str, str] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input if node.name in chosen else ()):
            tensor = initializers.get(name)
            values = numpy_helper.to_array(tensor) if tensor is not None else np.empty(0)
            if values.dtype != np.float32 or values.ndim < 2 or values.size < _LEAST_VALUES:
                continue
            if name not in made:
                scale = np.abs(values).reshape(len(values), -1).max(1) / 127
                scale = np.where(scale > 0, scale, 1).astype(np.float32)
                steps = np.round(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
                made[name] = f"{name}_dequantized"
                model.graph.initializer.extend([
                    numpy_helper.from_array(steps, f"{name}_int8"), numpy_helper.from_array(scale, f"{name}_scale"),
                    numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}_zero_point"),
                ])  # fmt: skip
                model.graph.node.insert(0, helper.make_node(
                    "DequantizeLinear", [f"{name}_int8", f"{name}_scale", f"{name}_zero_point"], [made[name]],
                    name=f"{name}_dequantize", axis=0,
                ))  # fmt: skip
            node.input[place] = made[name]
    used = {name for node in model.graph.node for name in node.input}
    for name in made:
        if name not in used:
            model.graph.initializer.remove(initializers[name])
