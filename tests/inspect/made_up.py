"""Small TFLite files made by hand, operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEMORY_TYPES = {"float32": "FLOAT32", "int8": "INT8", "int32": "INT32", "float16": "FLOAT16", "uint8": "UINT8", "bool": "BOOL"}


@dataclass
class TfliteFile:
    """A graph that grows by tensors and operators; each method returns or takes indices of tensors."""

    tensors: list[dict[str, Any]] = field(default_factory=list)
    operators: list[tuple[str, Sequence[int], Sequence[int], Any]] = field(default_factory=list)

    def tensor(
        self, name: str, shape: Sequence[int], dtype: str = "float32", values: NDArray[Any] | None = None,
        scale: Sequence[float] = (), zero_point: int = 0,
    ) -> int:  # fmt: skip
        """Add a tensor: a constant where it has values."""
        self.tensors.append(
            {"name": name, "shape": shape, "dtype": dtype, "values": values, "scale": scale, "zero": zero_point}
        )
        return len(self.tensors) - 1

    def operator(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: Any = None) -> None:
        """Add an operator; ``options`` is one of the schema's ``...OptionsT``."""
        self.operators.append((kind, inputs, outputs, options))

    def write(self, path: Path, inputs: Sequence[int], outputs: Sequence[int]) -> Path:
        """Write the file."""
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema

        model, graph = schema.ModelT(), schema.SubGraphT()
        model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [schema.BufferT()], []
        graph.inputs, graph.outputs, graph.tensors, graph.operators = list(inputs), list(outputs), [], []
        for each in self.tensors:
            tensor = schema.TensorT()
            tensor.name, tensor.shape, tensor.hasRank = each["name"], list(each["shape"]), True
            tensor.type = getattr(schema.TensorType, MEMORY_TYPES[each["dtype"]])
            buffer = schema.BufferT()
            if each["values"] is not None:
                buffer.data = np.frombuffer(each["values"].tobytes(), np.uint8)
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
            if len(each["scale"]):
                tensor.quantization = schema.QuantizationParametersT()
                tensor.quantization.scale = list(each["scale"])
                tensor.quantization.zeroPoint = [each["zero"]] * len(each["scale"])
            graph.tensors.append(tensor)
        codes: dict[str, int] = {}
        for kind, given, made, options in self.operators:
            if kind not in codes:
                codes[kind] = len(codes)
                code = schema.OperatorCodeT()
                code.builtinCode, code.version = getattr(schema.BuiltinOperator, kind), _VERSIONS.get(kind, 1)
                code.deprecatedBuiltinCode = min(code.builtinCode, 127)
                model.operatorCodes.append(code)
            operator = schema.OperatorT()
            operator.opcodeIndex, operator.inputs, operator.outputs = codes[kind], list(given), list(made)
            if options is not None:
                operator.builtinOptions = options
                operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            graph.operators.append(operator)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


_VERSIONS: dict[str, int] = {}
