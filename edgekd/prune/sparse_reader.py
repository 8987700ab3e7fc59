"""Which weights of an exported file are zero, read from the file itself. Free of torch, because it runs in a child process."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.prune.sparsity import check_pattern

Kept = NDArray[np.bool_]
"""Which weights of a layer are not zero: ``[outputs, inputs, places]``, places those of the window of a convolution."""
LEVEL = 9
"""Of deflate, which zip, APK and gzip files compress with; 9 is its slowest."""
_INTEGER = {"ConvInteger": 3, "MatMulInteger": 3}
"""Operators on integers, and which of their inputs is the zero point of the weights."""
_MOVING = {"DEQUANTIZE", "TRANSPOSE", "RESHAPE"}


def look_at_zeros(
    path: str, kind: str, expected: str, layers: Sequence[str], pattern: Sequence[int] | None
) -> dict[str, Any]:  # fmt: skip
    """Look for the zeros of a network in the file that was made from it. Runs in a child process.

    Layers have other names in files, so each is looked for by its shape and its zeros.

    Args:
        path: The file.
        kind: ``onnx``, ``ort`` or ``tflite``; weights in ONNX Runtime's own format are not looked into.
        expected: Safetensors file of the network when its weights were set to zero.
        layers: Names of the layers that have zeros.
        pattern: ``(N, M)``, or ``None``, see :class:`~edgekd.prune.sparsity.Sparsity`.

    Returns:
        ``deflated_bytes``; and of these layers in the file ``weights``, how many there are, ``zeros``, how many are zero,
        ``lost``, how many should be and are not, ``broken_groups``, how many groups break the pattern, and ``missing``, names
        of layers that are not there. All but the first are ``None`` where nothing was looked into.
    """
    from safetensors.numpy import load_file

    deflated = deflated_size(Path(path).read_bytes())
    if kind not in _READERS:
        return {"deflated_bytes": deflated, **dict.fromkeys(("weights", "zeros", "lost", "broken_groups", "missing"))}
    stored = load_file(expected)
    wanted = {name: _flat(stored[f"{name}.weight"] != 0) for name in layers}
    found = list(_READERS[kind](path))
    totals = {"weights": 0, "zeros": 0, "lost": 0, "broken_groups": 0}
    missing = []
    for name, kept in wanted.items():
        totals["weights"] += kept.size
        alike = [index for index, each in enumerate(found) if each.shape == kept.shape]
        if not alike:
            missing.append(name)
            totals["lost"] += int((~kept).sum())
            continue
        there = found.pop(min(alike, key=lambda index, kept=kept: int((found[index] & ~kept).sum())))  # type: ignore[misc]
        zeros, broken = check_pattern(there, None if pattern is None else (pattern[0], pattern[1]))
        totals["zeros"] += zeros
        totals["broken_groups"] += broken
        totals["lost"] += int((there & ~kept).sum())
    return {"deflated_bytes": deflated, **totals, "missing": missing}


def deflated_size(content: bytes) -> int:
    """Return the bytes that deflate needs for ``content``, at level 9, as in a zip, APK or gzip file, less their headers."""
    packer = zlib.compressobj(LEVEL, wbits=-zlib.MAX_WBITS)
    return len(packer.compress(content)) + len(packer.flush())


def _flat(kept: NDArray[Any]) -> Kept:
    return kept.reshape(*kept.shape[:2], -1).astype(bool)


def _onnx(path: str) -> Iterator[Kept]:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    stored = {each.name: each for each in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}

    def value(name: str) -> NDArray[Any] | None:
        return numpy_helper.to_array(stored[name]) if name in stored else _computed(model, name, makers, stored)

    for node in model.graph.node:
        weight = value(node.input[1]) if node.op_type in {"Conv", "Gemm", "MatMul", *_INTEGER} else None
        if weight is None or weight.ndim < 2:
            continue
        place = _INTEGER.get(node.op_type, len(node.input))
        zero = value(node.input[place]) if place < len(node.input) else None
        convolution = node.op_type.startswith("Conv")
        if zero is not None and convolution:
            zero = zero.reshape(-1, *[1] * (weight.ndim - 1))
        kept = weight != (0 if zero is None else zero)
        if convolution:
            yield _flat(kept)
        elif weight.ndim == 2:
            rows_first = any(each.name == "transB" and each.i for each in node.attribute)
            yield _flat(kept if rows_first else kept.T)


def _computed(model: Any, name: str, makers: dict[str, Any], stored: dict[str, Any]) -> NDArray[Any] | None:
    """Return what the file computes under ``name`` from stored values alone; ``None`` if it takes others."""
    import onnxruntime
    from onnx import helper

    needed, waiting = set[str](), [name]
    while waiting:
        tensor = waiting.pop()
        if tensor in stored or tensor in needed or not tensor:
            continue
        if tensor not in makers:
            return None  # an input of the network
        needed.update(makers[tensor].output)
        waiting.extend(makers[tensor].input)
    order = [node for node in model.graph.node if needed.intersection(node.output)]
    read = {each for node in order for each in node.input}
    graph = helper.make_graph(
        order, "weights", [], [helper.make_empty_tensor_value_info(name)],
        [each for each_name, each in stored.items() if each_name in read],
    )  # fmt: skip
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    result: NDArray[Any] = session.run([name], {})[0]
    return result


def _tflite(path: str) -> Iterator[Kept]:
    from ai_edge_litert import schema_py_generated as schema

    content = Path(path).read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for graph in model.subgraphs:
        constants = _Constants(content, model, graph)
        for operator in graph.operators or ():
            kind = constants.kind(operator)
            found = constants.kept(operator.inputs[1]) if kind in {"CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"} else None
            if found is not None and kind == "CONV_2D":  # [outputs, height, width, inputs]
                yield _flat(np.moveaxis(found, -1, 1))
            elif found is not None and found.ndim == 2:
                across = kind == "BATCH_MATMUL" and not operator.builtinOptions.adjY
                yield _flat(found.T if across else found)


class _Constants:
    """The constants of one graph of a TFLite file: which of their values are not zero."""

    def __init__(self, content: bytes, model: Any, graph: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._content, self._model, self._tensors = content, model, graph.tensors
        self._codes: dict[int, str] = {value: name for name, value in vars(schema.BuiltinOperator).items() if name[0] != "_"}
        self._types: dict[int, str] = {value: name for name, value in vars(schema.TensorType).items() if name[0] != "_"}
        self._makers: dict[int, Any] = {index: each for each in graph.operators or () for index in each.outputs}

    def kind(self, operator: Any) -> str:
        """Return what an operator is."""
        code = self._model.operatorCodes[operator.opcodeIndex]
        return self._codes[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def kept(self, index: int) -> NDArray[np.bool_] | None:
        """Return which values of a tensor are not zero, where it is stored, or is what is stored in other numbers or order."""
        tensor, stored = self._tensors[index], self._stored(index)
        if stored:
            return _not_zero(stored, self._types[tensor.type], tensor)
        maker = self._makers.get(index)
        kind = "" if maker is None else self.kind(maker)
        found = self.kept(maker.inputs[0]) if maker is not None and kind in _MOVING else None
        if found is None or kind == "DEQUANTIZE":
            return found
        if kind == "RESHAPE":
            return found.reshape(tensor.shape)
        assert maker is not None
        return found.transpose(np.frombuffer(self._stored(maker.inputs[1]), np.int32))

    def _stored(self, index: int) -> bytes:
        """Return the bytes of a constant: inside the flatbuffer, or behind it as large ones are; empty of any other tensor."""
        buffer = self._model.buffers[self._tensors[index].buffer]
        if buffer.data is not None:
            return bytes(buffer.data)
        return self._content[buffer.offset : buffer.offset + buffer.size] if buffer.offset > 1 else b""


_TYPES = {"FLOAT32": "<f4", "FLOAT16": "<f2", "INT8": "i1", "UINT8": "u1", "INT16": "<i2"}


def _not_zero(stored: bytes, kind: str, tensor: Any) -> NDArray[np.bool_] | None:
    shape = tuple(tensor.shape)
    if kind == "INT4":  # two in a byte, the lower four bits first
        packed = np.frombuffer(stored, np.uint8)
        values = np.stack([packed & 15, packed >> 4], 1).reshape(-1)[: int(np.prod(shape))].astype(np.int16)
        values = np.where(values > 7, values - 16, values).reshape(shape)
    elif kind in _TYPES:
        values = np.frombuffer(stored, _TYPES[kind]).reshape(shape)
    else:
        return None
    zeros = None if tensor.quantization is None else tensor.quantization.zeroPoint
    zero = np.zeros(1) if zeros is None else np.asarray(zeros)
    if len(zero) > 1:  # one for each channel
        zero = zero.reshape([-1 if axis == tensor.quantization.quantizedDimension else 1 for axis in range(len(shape))])
    kept: NDArray[np.bool_] = np.not_equal(values, zero)
    return kept


_READERS = {"onnx": _onnx, "tflite": _tflite}
