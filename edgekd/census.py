"""Count what is really stored and computed in 8 bits inside an artifact.

A file can be called int8 and keep its largest layer in float: only its bytes tell.
Weight bytes are those of constant tensors of floats, or of integers up to 8 bits, of two dimensions or more. Left out are
vectors: scales, zero points, shapes, indices, the parameters of layer norms, and the biases that every integer kernel adds
to its 32-bit accumulator.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

_BITS_ONNX = {
    "FLOAT": 32, "FLOAT16": 16, "BFLOAT16": 16, "DOUBLE": 64, "INT8": 8, "UINT8": 8, "INT4": 4, "UINT4": 4,
}  # fmt: skip
_TFLITE = {"FLOAT32", "FLOAT16", "BFLOAT16", "FLOAT64", "INT8", "UINT8", "INT4", "UINT4", "INT2"}
_EIGHT_BIT = {"INT8", "UINT8"}
_INTEGER_ONNX = {
    "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
}  # fmt: skip
"""Operators that compute on integers whatever feeds them; with dynamic ranges their inputs are quantized on the way."""
_WEIGHTED_TFLITE = {"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "BATCH_MATMUL"}
"""Operators that quantize a float input on the way, and compute on integers, where their weights are int8."""
_MOVE_ONLY = {
    "Constant", "Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Shape", "Slice", "Gather", "Concat",
    "Cast", "Split", "Pad", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",
    "QUANTIZE", "DEQUANTIZE", "EMBEDDING_LOOKUP", "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "SHAPE", "SLICE",
    "STRIDED_SLICE", "GATHER", "CONCATENATION", "CAST", "SPLIT", "PAD", "PADV2",
}  # fmt: skip
"""Operators that compute nothing."""


def census(path: str, kind: str) -> dict[str, float]:
    """Return ``int8_weights``, the share of weight bytes in 8 bits, and ``int8_ops``, of computing operators.

    Args:
        path: The file.
        kind: ``onnx`` or ``tflite``.
    """
    weights, operators = _count_onnx(path) if kind == "onnx" else _count_tflite(path)
    eight_bit = sum(weights[dtype] for dtype in _EIGHT_BIT & weights.keys())
    return {"int8_weights": _share({True: eight_bit, False: sum(weights.values()) - eight_bit}), "int8_ops": _share(operators)}


def tally(path: str, kind: str) -> dict[str, Any]:
    """Return what the shares of :func:`census` are made of.

    Args:
        path: The file.
        kind: ``onnx`` or ``tflite``.

    Returns:
        ``weight_bytes``, bytes of weights by dtype, as ``{"int8": 4096, "float32": 128}``, the most first; and
        ``integer_operators`` and ``float_operators``, numbers of computing operators.
    """
    weights, operators = _count_onnx(path) if kind == "onnx" else _count_tflite(path)
    named = {{"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype, dtype.lower()): count for dtype, count in weights.items()}
    return {
        "weight_bytes": dict(sorted(named.items(), key=lambda each: -each[1])),
        "integer_operators": operators[True], "float_operators": operators[False],
    }  # fmt: skip


def _share(counts: dict[bool, int]) -> float:
    total = counts[True] + counts[False]
    return counts[True] / total if total else 0.0


def _count_onnx(path: str) -> tuple[dict[str, int], dict[bool, int]]:
    import onnx

    graph = onnx.load(path).graph
    quantizers = [node for node in graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    parameters = {name for node in quantizers for name in node.input[1:]}
    weights: dict[str, int] = {}
    for tensor in graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        if tensor.name not in parameters and kind in _BITS_ONNX and not _is_vector(tensor.dims):
            weights[kind] = weights.get(kind, 0) + (math.prod(tensor.dims) * _BITS_ONNX[kind] + 7) // 8
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    operators = {True: 0, False: 0}
    for node in graph.node:
        if node.op_type in _INTEGER_ONNX:
            operators[True] += 1
        elif node.op_type not in _MOVE_ONLY:
            # An operator runs on integers when what it computes on arrives through DequantizeLinear.
            floats = [name for name in node.input if name and constants.get(name) in (None, onnx.TensorProto.FLOAT)]
            operators[bool(floats) and all(name in dequantized for name in floats)] += 1
    return weights, operators


def _count_tflite(path: str) -> tuple[dict[str, int], dict[bool, int]]:
    from pathlib import Path

    from ai_edge_litert import schema_py_generated as schema

    types = _names(schema.TensorType)
    codes = _names(schema.BuiltinOperator)
    model = schema.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0)
    weights: dict[str, int] = {}
    operators = {True: 0, False: 0}
    for graph in model.subgraphs:
        for tensor in graph.tensors or ():
            kind = types[tensor.type]
            if kind in _TFLITE and not _is_vector(tensor.shape if tensor.shape is not None else ()):
                stored = _bytes(model, tensor)
                if stored:
                    weights[kind] = weights.get(kind, 0) + stored
        for operator in graph.operators or ():
            code = model.operatorCodes[operator.opcodeIndex]
            name = codes[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if name not in _MOVE_ONLY:
                inputs, outputs = ([] if each is None else list(each) for each in (operator.inputs, operator.outputs))
                touched = [types[graph.tensors[index].type] for index in (*inputs[:1], *outputs[:1])]
                hybrid = name in _WEIGHTED_TFLITE and types[graph.tensors[inputs[1]].type] in _EIGHT_BIT
                operators[hybrid or (bool(touched) and all(kind in _EIGHT_BIT for kind in touched))] += 1
    return weights, operators


def _is_vector(shape: Iterable[int]) -> bool:
    return sum(size > 1 for size in shape) < 2


def _bytes(model: Any, tensor: Any) -> int:
    """Return the bytes of a constant tensor, 0 of any other: inside the flatbuffer, or behind it as large ones are."""
    buffer = model.buffers[tensor.buffer]
    return len(buffer.data) if buffer.data is not None else int(buffer.size)


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}
