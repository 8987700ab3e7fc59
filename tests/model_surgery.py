"""Changes inside finished ONNX and TFLite files, by which tests plant faults in a known place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
_TYPES = {0: np.float32, 1: np.float16, 2: np.int32, 4: np.int64, 9: np.int8}


def edit_onnx(source: Path, out: Path, change: Callable[[dict[str, Array]], None]) -> Path:
    """Write ``source`` to ``out`` after ``change`` was called with its constants by name, to be replaced in place."""
    model = onnx.load(source)
    constants = {each.name: numpy_helper.to_array(each).copy() for each in model.graph.initializer}
    change(constants)
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    out.write_bytes(model.SerializeToString())
    return out


def append_onnx(source: Path, out: Path, operation: str, **attributes: Any) -> Path:
    """Write ``source`` to ``out`` with one more operation on its only output."""
    model = onnx.load(source)
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["inner" if name == output.name else name for name in node.output]
    model.graph.node.append(helper.make_node(operation, ["inner"], [output.name], **attributes))
    out.write_bytes(model.SerializeToString())
    return out


def prepend_onnx(source: Path, out: Path, operation: str, *constants: Array, **attributes: Any) -> Path:
    """Write ``source`` to ``out`` with one more operation on its only input."""
    model = onnx.load(source)
    (given,) = model.graph.input
    for node in model.graph.node:
        node.input[:] = ["changed" if name == given.name else name for name in node.input]
    names = [f"extra{index}" for index in range(len(constants))]
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in zip(names, constants, strict=True))
    model.graph.node.insert(0, helper.make_node(operation, [given.name, *names], ["changed"], **attributes))
    out.write_bytes(model.SerializeToString())
    return out


class Tflite:
    """A TFLite file in pieces: its operators, and the values and scales of its tensors."""

    def __init__(self, source: Path) -> None:
        self.model = schema.ModelT.InitFromPackedBuf(source.read_bytes(), 0)
        (self.graph,) = self.model.subgraphs

    def operators(self, *kinds: str) -> list[Any]:
        """Return the operators of these kinds in order of execution, for example ``CONV_2D``."""
        codes = {value for name, value in vars(schema.BuiltinOperator).items() if name in kinds}

        def code(operator: Any) -> int:
            found = self.model.operatorCodes[operator.opcodeIndex]
            return max(int(found.builtinCode), int(found.deprecatedBuiltinCode))

        return [each for each in self.graph.operators if code(each) in codes]

    def values(self, index: int) -> Array:
        """Return the constant of tensor ``index``."""
        tensor = self.graph.tensors[index]
        raw = np.asarray(self.model.buffers[tensor.buffer].data, np.uint8).tobytes()
        return np.frombuffer(raw, _TYPES[tensor.type]).reshape(tensor.shape).copy()

    def put(self, index: int, values: Array) -> None:
        """Replace the constant of tensor ``index`` by one of the same type and shape."""
        buffer = self.model.buffers[self.graph.tensors[index].buffer]
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)

    def scale(self, index: int, factor: float) -> None:
        """Multiply the scales of tensor ``index``."""
        quantization = self.graph.tensors[index].quantization
        quantization.scale = (np.asarray(quantization.scale) * factor).astype(np.float32)

    def save(self, out: Path) -> Path:
        """Write the file."""
        import flatbuffers

        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        out.write_bytes(bytes(builder.Output()))
        return out
