"""What an int8 file holds, read back from the file itself."""

from pathlib import Path

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper


def onnx_scales(path: Path) -> dict[str, tuple[float, int]]:
    """Scale and zero point of every activation that a QuantizeLinear makes, by name."""
    graph = onnx.load(path).graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    return {
        node.input[0]: (float(constants[node.input[1]]), int(constants[node.input[2]]))
        for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in constants
    }  # fmt: skip


def tflite_scales(path: Path) -> dict[str, tuple[float, int]]:
    """Scale and zero point of every tensor with one of each, by name."""
    found = {}
    for tensor in schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0).subgraphs[0].tensors:
        quantization = tensor.quantization
        if quantization is not None and quantization.scale is not None and len(quantization.scale) == 1:
            found[tensor.name.decode()] = (float(quantization.scale[0]), int(quantization.zeroPoint[0]))
    return found


def tflite_outputs(path: Path) -> dict[str, list[str]]:
    """Names of the tensors that the operators of each kind give."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    found: dict[str, list[str]] = {}
    for operator in model.subgraphs[0].operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
        found.setdefault(kind, []).extend(model.subgraphs[0].tensors[each].name.decode() for each in operator.outputs)
    return found


def scale_of(low: float, high: float, steps: int = 255, least: int = 0) -> tuple[float, int]:
    """Scale and zero point that cover ``[low, high]`` with ``steps`` steps, of which the first is the integer ``least``."""
    scale = (high - low) / steps
    return scale, int(np.round(least - low / scale))
