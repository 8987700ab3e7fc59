"""Graphs made by hand."""

from __future__ import annotations

from typing import Any, Literal

from edgekd.inspect.graph import GraphDescription, OperatorDescription, TensorDescription, dense_bytes


def tensor(name: str, shape: tuple[int | None, ...] | None = (1, 4), dtype: str = "float32", **more: Any) -> TensorDescription:
    """Return an activation, unless ``role`` says otherwise."""
    return TensorDescription(**{
        "name": name, "shape": shape, "dtype": dtype, "bytes": dense_bytes(shape, dtype), "role": "activation",
    } | more)  # fmt: skip


def operator(kind: str, inputs: str, outputs: str) -> OperatorDescription:
    """Return an operator from and to tensors named in words; it is called as its first output."""
    return OperatorDescription(outputs.split()[0], kind, tuple(inputs.split()), tuple(outputs.split()), 0, 0)


def graph(
    tensors: list[TensorDescription], operators: list[OperatorDescription], inputs: str, outputs: str,
    kind: Literal["onnx", "tflite"] = "tflite",
) -> GraphDescription:  # fmt: skip
    """Return a graph; tensors that are not described are four floats."""
    known = {each.name: each for each in tensors}
    for each in operators:
        for name in (*each.inputs, *each.outputs):
            known.setdefault(name, tensor(name))
    return GraphDescription(kind, known, tuple(operators), tuple(inputs.split()), tuple(outputs.split()), {})
