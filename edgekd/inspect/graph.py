"""One description of a graph, whatever file it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

Shape = tuple[int | None, ...]
Role = Literal["activation", "weight", "constant", "derived"]


@dataclass(frozen=True)
class TensorDescription:
    """A value of a graph.

    Attributes:
        name: Unique in its graph.
        shape: Of a batch of 1; ``None`` for a dimension that the file leaves open, or in place of the whole shape.
        dtype: As in NumPy, for example ``float32``, and ``bfloat16``, ``int4``, ``string``, ``unknown``.
        bytes: What it takes when it is stored densely; ``None`` where the shape or the dtype is unknown.
        role: ``weight``: a stored parameter. ``constant``: stored, and no parameter: scales, zero points, shapes, indices.
            ``derived``: computed from those two alone, so once, before the first sample. ``activation``: anything else.
        storage: Where a weight or constant is stored: two tensors may share one place.
        scale, zero_point: Of a quantized value: ``real = (stored - zero_point) * scale``; of a per-channel one its first.
        per_channel: Whether it has a scale for each channel.
        declared: The shape as the file tells it: open dimensions are names, or ``?``. ``None``: it does not tell.
    """

    name: str
    shape: Shape | None
    dtype: str
    bytes: int | None
    role: Role
    storage: str | None = None
    scale: float | None = None
    zero_point: int | None = None
    per_channel: bool = False
    declared: tuple[int | str, ...] | None = None

    @property
    def elements(self) -> int | None:
        """Number of values; ``None``: unknown."""
        return elements(self.shape)


@dataclass(frozen=True)
class OperatorDescription:
    """A step of a graph.

    Attributes:
        name: Of the node, or of its first output where the format has no names of nodes.
        kind: As the format spells it, for example ``Conv`` or ``CONV_2D``, behind the domain where it is not the standard one.
        inputs, outputs: Names of tensors; an input left out is an empty string.
        macs: Multiply-accumulates for a batch of 1, in convolutions and matrix products; ``None``: unknown.
        weight_bytes: Bytes of the weights it reads, as stored.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int | None
    weight_bytes: int


@dataclass(frozen=True)
class GraphDescription:
    """A model file.

    Attributes:
        format: ``onnx`` or ``tflite``.
        tensors: By name.
        operators: In order of execution.
        inputs, outputs: Names of tensors.
        metadata: What the file tells about itself, in its own words.
        subgraphs: Number of graphs inside operators, as loops have; those are not looked into.
    """

    format: Literal["onnx", "tflite"]
    tensors: dict[str, TensorDescription]
    operators: tuple[OperatorDescription, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, str]
    subgraphs: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self) | {"tensors": [asdict(each) for each in self.tensors.values()]}

    def activations(self, names: tuple[str, ...]) -> Iterator[TensorDescription]:
        """Yield those of ``names`` that are activations."""
        for name in names:
            if name and self.tensors[name].role == "activation":
                yield self.tensors[name]

    def is_folded(self, operator: OperatorDescription) -> bool:
        """Whether an operator works on constants alone: runtimes compute it once, before the first sample."""
        return bool(operator.outputs) and all(self.tensors[name].role == "derived" for name in operator.outputs if name)

    def consumers(self) -> dict[str, list[OperatorDescription]]:
        """Return the operators that read each tensor."""
        found: dict[str, list[OperatorDescription]] = {}
        for operator in self.operators:
            for name in dict.fromkeys(operator.inputs):
                found.setdefault(name, []).append(operator)
        return found


def graph_from_json(content: dict[str, Any]) -> GraphDescription:
    """Return what :meth:`GraphDescription.to_json` described."""
    tensors = {}
    for each in content["tensors"]:
        shape, declared = each["shape"], each["declared"]
        tensors[each["name"]] = TensorDescription(**each | {
            "shape": None if shape is None else tuple(shape), "declared": None if declared is None else tuple(declared),
        })  # fmt: skip
    operators = tuple(
        OperatorDescription(**each | {"inputs": tuple(each["inputs"]), "outputs": tuple(each["outputs"])})
        for each in content["operators"]
    )
    return GraphDescription(
        content["format"], tensors, operators, tuple(content["inputs"]), tuple(content["outputs"]),
        content["metadata"], content["subgraphs"],
    )  # fmt: skip


def elements(shape: Shape | None) -> int | None:
    """Return the number of values of a shape; ``None`` where a dimension is unknown."""
    return None if shape is None else product(*shape)


def product(*factors: int | None) -> int | None:
    """Return the product; ``None`` if a factor is unknown, or below zero, or if there can be no such number of things."""
    total = 1
    for each in factors:
        if each is None or each < 0:
            return None
        total *= each
        if total > _MOST:
            return None
    return total


_MOST = 1 << 62


BITS = {
    "float32": 32, "float16": 16, "bfloat16": 16, "float64": 64, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16,
    "int32": 32, "uint32": 32, "int64": 64, "uint64": 64, "bool": 8, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2,
    "complex64": 64, "complex128": 128,
}  # fmt: skip
"""Bits of a stored value; types of 8-bit floats are added below, strings have no fixed size."""
BITS |= dict.fromkeys(("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"), 8)


def dense_bytes(shape: Shape | None, dtype: str) -> int | None:
    """Return the bytes of a dense tensor; ``None``: unknown."""
    count = elements(shape)
    return None if count is None or dtype not in BITS else (count * BITS[dtype] + 7) // 8
