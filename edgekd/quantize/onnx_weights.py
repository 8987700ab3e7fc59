"""ONNX with weights alone in few bits: int8 with a scale per output channel, int4 with a scale per block of 32.

The operators compute in floating point, on weights that the runtime dequantizes. That makes a file small, not fast.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.quantize.onnx import write_onnx

_WEIGHTED = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "Gather": 0}
"""Operators with weights, and at which input."""
_LEAST_VALUES = 64
"""Weights smaller than this are not worth another operator."""
_BLOCK = 32
_OPSET = 21
"""The first in which DequantizeLinear takes int4 and blocks."""


def store_onnx_weights(model: str, out: str, bits: int) -> dict[str, Any]:
    """Write the float32 ONNX file ``model`` with weights of ``bits`` bits to ``out``. Runs in a child process.

    Args:
        model: Path of the float32 file.
        out: Path of the file to write.
        bits: 8, symmetric with a scale per output channel; or 4, symmetric with a scale per 32 values that one output adds up.
    """
    import onnx
    from onnx import helper, version_converter
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=Path(out).parent, prefix=".", suffix=".tmp") as scratch:
        folded = Path(scratch, "folded.onnx")
        # Folds batch norm into convolutions: the weights that are stored are those that are used.
        quant_pre_process(model, folded, skip_symbolic_shape=True)
        proto = onnx.load(folded)
    if bits == 4 and next(each.version for each in proto.opset_import if each.domain in {"", "ai.onnx"}) < _OPSET:
        proto = version_converter.convert_version(proto, _OPSET)
    initializers = {each.name: each for each in proto.graph.initializer}
    made: dict[str, list[Any]] = {}
    for node, place in _weighted(proto):
        name = node.input[place]
        tensor = initializers.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or int(np.prod(tensor.dims)) < _LEAST_VALUES:
            continue
        if name not in made:
            values = onnx.numpy_helper.to_array(tensor)
            axis = _output_axis(node, values)
            made[name] = _int8(helper, name, values, axis) if bits == 8 else _int4(helper, name, values, axis)
        node.input[place] = f"{name}_dequantized"
    used = {name for node in proto.graph.node for name in node.input}
    for name, parts in made.items():
        proto.graph.initializer.extend(part for part in parts if isinstance(part, onnx.TensorProto))
        for part in reversed([part for part in parts if isinstance(part, onnx.NodeProto)]):
            proto.graph.node.insert(0, part)
        if name not in used:
            proto.graph.initializer.remove(initializers[name])
    write_onnx(proto, out)
    return {}


def _weighted(proto: Any) -> Iterator[tuple[Any, int]]:
    for node in proto.graph.node:
        place = _WEIGHTED.get(node.op_type)
        if place is not None and place < len(node.input):
            yield node, place


def _output_axis(node: Any, values: NDArray[np.float32]) -> int:
    """Return the axis along which each index belongs to another output, so that it can have a scale of its own."""
    if node.op_type == "MatMul":
        return values.ndim - 1
    if node.op_type == "Gemm":
        transposed = any(each.name == "transB" and each.i for each in node.attribute)
        return 0 if transposed else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def _int8(helper: Any, name: str, values: NDArray[np.float32], axis: int) -> list[Any]:
    from onnx import numpy_helper

    others = tuple(each for each in range(values.ndim) if each != axis)
    largest = np.abs(values).max(axis=others)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    shaped = scale.reshape([-1 if each == axis else 1 for each in range(values.ndim)])
    steps = np.clip(np.round(values / shaped), -127, 127).astype(np.int8)
    return [
        numpy_helper.from_array(steps, f"{name}_int8"), numpy_helper.from_array(scale, f"{name}_scale"),
        helper.make_node(
            "DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [f"{name}_dequantized"], name=f"{name}_dequantize", axis=axis
        ),
    ]  # fmt: skip


def _int4(helper: Any, name: str, values: NDArray[np.float32], axis: int) -> list[Any]:
    """Blocks of a row of all values that one output adds up, whatever the shape: a last block may be shorter, filled with 0."""
    import ml_dtypes
    from onnx import numpy_helper

    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    width = rows.shape[1]
    blocks = -(-width // _BLOCK)
    padded = np.zeros((len(rows), blocks * _BLOCK), np.float32)
    padded[:, :width] = rows
    largest = np.abs(padded.reshape(len(rows), blocks, _BLOCK)).max(2)
    scale = np.where(largest > 0, largest / 7, 1).astype(np.float32)
    steps = np.clip(np.round(padded / np.repeat(scale, _BLOCK, axis=1)), -7, 7).astype(np.int8).astype(ml_dtypes.int4)
    moved = [values.shape[axis], *(size for each, size in enumerate(values.shape) if each != axis)]
    order = [each + 1 if each < axis else 0 if each == axis else each for each in range(values.ndim)]
    nodes = [
        helper.make_node("DequantizeLinear", [f"{name}_int4", f"{name}_scale"], [f"{name}_blocks"],
                         name=f"{name}_dequantize", axis=1, block_size=_BLOCK),
        helper.make_node("Slice", [f"{name}_blocks", f"{name}_from", f"{name}_to", f"{name}_axis"], [f"{name}_rows"],
                         name=f"{name}_unpad"),
        helper.make_node("Reshape", [f"{name}_rows", f"{name}_shape"], [f"{name}_shaped"], name=f"{name}_reshape"),
        helper.make_node("Transpose", [f"{name}_shaped"], [f"{name}_dequantized"], name=f"{name}_transpose", perm=order),
    ]  # fmt: skip
    constants = {"from": [0], "to": [width], "axis": [1], "shape": moved}
    return [
        numpy_helper.from_array(steps, f"{name}_int4"), numpy_helper.from_array(scale, f"{name}_scale"),
        *(numpy_helper.from_array(np.asarray(value, np.int64), f"{name}_{key}") for key, value in constants.items()), *nodes,
    ]  # fmt: skip
