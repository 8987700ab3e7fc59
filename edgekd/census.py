"""Count what is really stored and computed in 8 bits inside an artifact.

A file can be called int8 and keep its largest layer in float: only its bytes tell.
Weight bytes are those of constant int8/uint8 and float tensors of two dimensions or more. Left out are vectors: scales,
zero points, shapes, indices, the parameters of layer norms, and the biases that every integer kernel adds to its 32-bit
accumulator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

_BYTES_ONNX = {"FLOAT": 4, "FLOAT16": 2, "BFLOAT16": 2, "DOUBLE": 8, "INT8": 1, "UINT8": 1}
_BYTES_TFLITE = {"FLOAT32": 4, "FLOAT16": 2, "FLOAT64": 8, "INT8": 1, "UINT8": 1}
_EIGHT_BIT = {"INT8", "UINT8"}
_WIDTHS = {"int8": _EIGHT_BIT, "fp16": {"FLOAT16", "BFLOAT16"}, "fp32": {"FLOAT", "FLOAT32"}}
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
    """Return the shares of weight bytes in 8 bits and in floats of 16 and 32, ``int8_weights``, ``fp16_weights`` and
    ``fp32_weights``, and ``int8_ops``, of computing operators.

    Args:
        path: The file.
        kind: ``onnx`` or ``tflite``.
    """
    weights, operators = _count_onnx(path) if kind == "onnx" else _count_tflite(path)
    stored = sum(weights.values())
    shares = {
        f"{name}_weights": sum(weights[kind] for kind in kinds) / stored if stored else 0.0 for name, kinds in _WIDTHS.items()
    }
    computing = sum(operators.values())
    return {**shares, "int8_ops": operators[True] / computing if computing else 0.0}


def _count_onnx(path: str) -> tuple[Counter[str], dict[bool, int]]:
    import onnx

    graph = onnx.load(path).graph
    quantizers = [node for node in graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    parameters = {name for node in quantizers for name in node.input[1:]}
    weights: Counter[str] = Counter()
    for tensor in graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        if tensor.name not in parameters and kind in _BYTES_ONNX and not _is_vector(tensor.dims):
            weights[kind] += int(np.prod(tensor.dims)) * _BYTES_ONNX[kind]
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    operators = {True: 0, False: 0}
    for node in graph.node:
        if node.op_type in _INTEGER_ONNX:
            operators[True] += 1
        elif node.op_type not in _MOVE_ONLY:
            # An operator runs on integers when what it computes on arrives through DequantizeLinear.
            constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
            floats = [name for name in node.input if name and constants.get(name) in (None, onnx.TensorProto.FLOAT)]
            operators[bool(floats) and all(name in dequantized for name in floats)] += 1
    return weights, operators


def _count_tflite(path: str) -> tuple[Counter[str], dict[bool, int]]:
    from pathlib import Path

    from ai_edge_litert import schema_py_generated as schema

    types = _names(schema.TensorType)
    codes = _names(schema.BuiltinOperator)
    model = schema.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0)
    weights: Counter[str] = Counter()
    operators = {True: 0, False: 0}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            kind = types[tensor.type]
            if kind in _BYTES_TFLITE and not _is_vector(tensor.shape if tensor.shape is not None else ()):
                weights[kind] += _bytes(model, tensor)
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = codes[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if name not in _MOVE_ONLY:
                touched = [types[graph.tensors[index].type] for index in (operator.inputs[0], operator.outputs[0])]
                hybrid = name in _WEIGHTED_TFLITE and types[graph.tensors[operator.inputs[1]].type] in _EIGHT_BIT
                operators[hybrid or all(kind in _EIGHT_BIT for kind in touched)] += 1
    return weights, operators


def _is_vector(shape: Iterable[int]) -> bool:
    return sum(size > 1 for size in shape) < 2


def _bytes(model: Any, tensor: Any) -> int:
    """Return the bytes of a constant tensor, 0 of any other: inside the flatbuffer, or behind it as large ones are."""
    buffer = model.buffers[tensor.buffer]
    return len(buffer.data) if buffer.data is not None else int(buffer.size)


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}
