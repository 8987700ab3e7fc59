"""Count what is really stored and computed in few bits inside an artifact.

A file can be called int8 and keep its largest layer in float: only its bytes tell.
Weight bytes are those of constant integer and float tensors of 4 to 64 bits with two dimensions or more. Left out are vectors:
scales, zero points, shapes, indices, the parameters of layer norms, and the biases that every integer kernel adds to its 32-bit
accumulator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

_BITS = {
    "FLOAT": 32, "FLOAT32": 32, "FLOAT16": 16, "BFLOAT16": 16, "DOUBLE": 64, "FLOAT64": 64, "INT8": 8, "UINT8": 8,
    "INT4": 4, "UINT4": 4, "INT2": 2,
}  # fmt: skip
"""Types that weights have, as ONNX and TFLite call them."""
_SHARES = {
    "int8_weights": {"INT8", "UINT8"}, "int4_weights": {"INT4", "UINT4"}, "fp16_weights": {"FLOAT16", "BFLOAT16"},
    "fp32_weights": {"FLOAT", "FLOAT32"},
}  # fmt: skip
_EIGHT_BIT = _SHARES["int8_weights"]
_INTEGER = {"INT8", "UINT8", "INT16"}
_INTEGER_ONNX = {
    "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
}  # fmt: skip
"""Operators that compute on integers whatever feeds them; with dynamic ranges their inputs are quantized on the way."""
_WEIGHTED_TFLITE = {"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "BATCH_MATMUL"}
"""Operators that quantize a float input on the way, and compute on integers, where their weights are int8."""
_BIAS = 2
"""Which input of an ONNX operator is its bias: it may stay in float beside integers."""
_MOVE_ONLY = {
    "Constant", "Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Shape", "Slice", "Gather", "Concat",
    "Cast", "Split", "Pad", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",
    "QUANTIZE", "DEQUANTIZE", "EMBEDDING_LOOKUP", "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "SHAPE", "SLICE",
    "STRIDED_SLICE", "GATHER", "CONCATENATION", "CAST", "SPLIT", "PAD", "PADV2",
}  # fmt: skip
"""Operators that compute nothing."""


def census(path: str, kind: str) -> dict[str, float]:
    """Return shares of weight bytes, ``int8_weights``, ``int4_weights``, ``fp16_weights`` and ``fp32_weights``, and
    ``int8_ops``: the share of computing operators that run on integers of 8 or 16 bits.

    Args:
        path: The file.
        kind: ``onnx``, ``ort`` or ``tflite``.
    """
    weights, operators = _COUNTERS[kind](path)
    total = sum(weights.values())
    shares = {name: sum(weights[each] for each in kinds) / total if total else 0.0 for name, kinds in _SHARES.items()}
    return {**shares, "int8_ops": operators[True] / operators.total() if operators else 0.0}


def tally(path: str, kind: str) -> dict[str, Any]:
    """Return what the shares of :func:`census` are made of.

    Args:
        path: The file.
        kind: ``onnx``, ``ort`` or ``tflite``.

    Returns:
        ``weight_bytes``, bytes of weights by dtype, as ``{"int8": 4096, "float32": 128}``, the most first; and
        ``integer_operators`` and ``float_operators``, numbers of computing operators.
    """
    weights, operators = _COUNTERS[kind](path)
    named = {{"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype, dtype.lower()): count for dtype, count in weights.items()}
    return {
        "weight_bytes": dict(sorted(named.items(), key=lambda each: -each[1])),
        "integer_operators": operators[True], "float_operators": operators[False],
    }  # fmt: skip


def _count_onnx(path: str) -> tuple[Counter[str], Counter[bool]]:
    import onnx

    graph = onnx.load(path).graph
    quantizers = [node for node in graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    parameters = {name for node in quantizers for name in node.input[1:]}
    weights: Counter[str] = Counter()
    for tensor in graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        if tensor.name not in parameters and kind in _BITS and not _is_vector(tensor.dims):
            weights[kind] += int(np.prod(tensor.dims)) * _BITS[kind] // 8
    # Weights alone in integers, behind DequantizeLinear, leave the operator in float.
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    dequantized = {node.output[0]: node.input[0] in constants for node in graph.node if node.op_type == "DequantizeLinear"}
    operators: Counter[bool] = Counter()
    for node in graph.node:
        if node.op_type in _INTEGER_ONNX:
            operators[True] += 1
        elif node.op_type not in _MOVE_ONLY:
            # An operator runs on integers when what it computes on arrives through DequantizeLinear.
            floats = [
                name for place, name in enumerate(node.input)
                if name and constants.get(name) in (None, onnx.TensorProto.FLOAT) and not (place == _BIAS and name in constants)
            ]  # fmt: skip
            behind = all(name in dequantized for name in floats) and not all(dequantized[name] for name in floats)
            operators[bool(floats) and behind] += 1
    return weights, operators


def _count_ort(path: str) -> tuple[Counter[str], Counter[bool]]:
    """Count in ONNX Runtime's own format, where QDQ is fused already and integer operators have names of their own."""
    from pathlib import Path

    from onnx import TensorProto
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    graph = InferenceSession.GetRootAsInferenceSession(Path(path).read_bytes(), 0).Model().Graph()
    weights: Counter[str] = Counter()
    for index in range(graph.InitializersLength()):
        tensor = graph.Initializers(index)
        kind, dims = TensorProto.DataType.Name(tensor.DataType()), [tensor.Dims(each) for each in range(tensor.DimsLength())]
        if kind in _BITS and not _is_vector(dims):
            weights[kind] += int(np.prod(dims)) * _BITS[kind] // 8
    operators: Counter[bool] = Counter()
    for index in range(graph.NodesLength()):
        name = graph.Nodes(index).OpType().decode()
        if name not in _MOVE_ONLY:
            operators[name in _INTEGER_ONNX or name.startswith(("QLinear", "QGemm", "QAttention"))] += 1
    return weights, operators


def _count_tflite(path: str) -> tuple[Counter[str], Counter[bool]]:
    from pathlib import Path

    from ai_edge_litert import schema_py_generated as schema

    types = _names(schema.TensorType)
    codes = _names(schema.BuiltinOperator)
    model = schema.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0)
    weights: Counter[str] = Counter()
    operators: Counter[bool] = Counter()
    for graph in model.subgraphs:
        for tensor in graph.tensors or ():
            kind = types[tensor.type]
            if kind in _BITS and not _is_vector(tensor.shape if tensor.shape is not None else ()):
                stored = _bytes(model, tensor)
                if stored:
                    weights[kind] += stored
        for operator in graph.operators or ():
            code = model.operatorCodes[operator.opcodeIndex]
            name = codes[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if name not in _MOVE_ONLY:
                inputs, outputs = ([] if each is None else list(each) for each in (operator.inputs, operator.outputs))
                touched = [types[graph.tensors[index].type] for index in (*inputs[:1], *outputs[:1])]
                hybrid = name in _WEIGHTED_TFLITE and types[graph.tensors[inputs[1]].type] in _EIGHT_BIT
                operators[hybrid or (bool(touched) and all(kind in _INTEGER for kind in touched))] += 1
    return weights, operators


_COUNTERS = {"onnx": _count_onnx, "ort": _count_ort, "tflite": _count_tflite}


def _is_vector(shape: Iterable[int]) -> bool:
    return sum(size > 1 for size in shape) < 2


def _bytes(model: Any, tensor: Any) -> int:
    """Return the bytes of a constant tensor, 0 of any other: inside the flatbuffer, or behind it as large ones are."""
    buffer = model.buffers[tensor.buffer]
    return len(buffer.data) if buffer.data is not None else int(buffer.size)


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}
