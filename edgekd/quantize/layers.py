"""The layers of a float file that a quantizer would turn to int8, and what each costs.

ONNX: nodes, by their names, of the file as the quantizer sees it. TFLite: operators, by the name of the first tensor they give.
"""

from __future__ import annotations

import tempfile
from collections.abc import Set
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.inspect.graph import GraphDescription, graph_from_json
from edgekd.inspect.onnx import describe_onnx
from edgekd.inspect.tflite import describe_tflite
from edgekd.quantize.onnx_tensors import fold_onnx

_MOST_GROUPS = 24


@dataclass(frozen=True)
class Layer:
    """An operator that can compute in int8 or in floating point.

    Attributes:
        name: What ``keep`` of the quantizers calls it.
        operator: Its kind, as the format spells it.
        macs: Multiply-accumulates for one sample; 0 where unknown.
        weight_bytes: Bytes of the weights it reads, in the float file.
        inputs, outputs: Names of the floating-point activations it reads and gives.
        quantizable: Whether the quantizer of its format has int8 for such an operator; others stay in floating point.
        spread: Of a depthwise convolution, how much larger the weights of its largest channel are than those of its middle
            one; 1 for other operators.
    """

    name: str
    operator: str
    macs: int
    weight_bytes: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    quantizable: bool = True
    spread: float = 1.0


@dataclass(frozen=True)
class Layers:
    """The layers of a file in order of execution, and the names of what the file takes and gives."""

    layers: tuple[Layer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all layers."""
        return tuple(each.name for each in self.layers)

    def readers(self, tensor: str) -> tuple[Layer, ...]:
        """Return the layers that read a tensor."""
        return tuple(each for each in self.layers if tensor in each.inputs)

    def maker(self, tensor: str) -> Layer | None:
        """Return the layer that gives a tensor; ``None`` for an input of the file."""
        return next((each for each in self.layers if tensor in each.outputs), None)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def layers_from_json(content: dict[str, Any]) -> Layers:
    """Return what :meth:`Layers.to_json` described."""
    layers = tuple(
        Layer(**each | {"inputs": tuple(each["inputs"]), "outputs": tuple(each["outputs"])}) for each in content["layers"]
    )
    return Layers(layers, tuple(content["inputs"]), tuple(content["outputs"]))


@dataclass(frozen=True)
class Group:
    """Adjacent layers that are kept in floating point, or not, together.

    Attributes:
        layers: Their names.
        macs, weight_bytes: Of all of them.
    """

    layers: tuple[str, ...]
    macs: int
    weight_bytes: int


def count_layers(count: int) -> str:
    """Return ``no layer``, ``1 layer`` or, say, ``2 layers``."""
    return "no layer" if not count else f"{count} layer{'s' * (count > 1)}"


def list_layers(model: str, kind: str) -> dict[str, Any]:
    """Return the :class:`Layers` of a float32 file as plain data. Runs in a child process.

    Args:
        model: Path of the file.
        kind: ``onnx`` or ``tflite``.
    """
    described = _describe_onnx(model) if kind == "onnx" else _describe_tflite(model)
    return described.to_json()


def _describe_onnx(model: str) -> Layers:
    """Describe what batch norm is folded into, under the names that ``model`` has for it."""
    import onnx
    from onnx import numpy_helper
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    with tempfile.TemporaryDirectory(prefix="edgekd-layers-") as scratch:
        folded = Path(scratch, "folded.onnx")
        fold_onnx(model, folded)
        graph = graph_from_json(describe_onnx(str(folded)))
        proto = onnx.load(folded)
    known = {node.name for node in proto.graph.node}
    makers = {name: node.name for node in onnx.load(model).graph.node for name in node.output}
    names = [each.name if each.name in known else makers.get(each.outputs[0], each.name) for each in graph.operators]
    constants = {each.name: each for each in proto.graph.initializer}
    spreads = {}
    for node in proto.graph.node:
        weights = constants.get(node.input[1]) if node.op_type == "Conv" else None
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if weights is not None and groups == weights.dims[0] > 1:
            spreads[node.output[0]] = _spread(numpy_helper.to_array(weights))
    return _layers(graph, names, {}, {*QDQRegistry, *QLinearOpsRegistry}, spreads)


def _describe_tflite(model: str) -> Layers:
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_quantizer.qtyping import TFLOperationName

    graph = graph_from_json(describe_tflite(model))
    parsed = schema.ModelT.InitFromPackedBuf(Path(model).read_bytes(), 0)
    body = parsed.subgraphs[0]
    # The description calls inputs and outputs as the signature does, quantizers go by the names of tensors.
    stored: dict[str, str] = {}
    for described, index in (*zip(graph.inputs, body.inputs, strict=True), *zip(graph.outputs, body.outputs, strict=True)):
        stored[described] = body.tensors[index].name.decode(errors="replace")
    names = [stored.get(each.outputs[0], each.outputs[0]) for each in graph.operators]
    spreads = {}
    for each, operator in zip(graph.operators, body.operators, strict=True):
        if each.kind == "DEPTHWISE_CONV_2D":
            weights = body.tensors[operator.inputs[1]]
            values = parsed.buffers[weights.buffer].data
            if values is not None and len(values):
                shaped = np.frombuffer(bytes(values), np.float32).reshape(list(weights.shape))
                spreads[each.outputs[0]] = _spread(np.moveaxis(shaped, -1, 0))
    return _layers(graph, names, stored, {each.name for each in TFLOperationName}, spreads)


def _layers(
    graph: GraphDescription, names: list[str], stored: dict[str, str], quantizable: Set[str], spreads: dict[str, float]
) -> Layers:
    """Return what computes on activations in floating point, in order."""

    def activations(tensors: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(stored.get(each.name, each.name) for each in graph.activations(tensors) if each.dtype == "float32")

    found = [
        Layer(
            name, each.kind, each.macs or 0, each.weight_bytes, activations(each.inputs), activations(each.outputs),
            each.kind in quantizable, spreads.get(each.outputs[0], 1.0),
        )
        for name, each in zip(names, graph.operators, strict=True)
        if activations(each.outputs) and not graph.is_folded(each)
    ]  # fmt: skip
    inputs, outputs = (tuple(stored.get(each, each) for each in side) for side in (graph.inputs, graph.outputs))
    return Layers(tuple(found), inputs, outputs)


def _spread(weights: NDArray[np.float32]) -> float:
    """Return the sum of the absolute weights of the largest channel, the first dimension, over that of the middle one."""
    sizes = np.abs(weights).reshape(len(weights), -1).sum(1)
    middle = float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else 0.0
    return float(sizes.max()) / middle if middle else 1.0


def group_layers(layers: tuple[Layer, ...], most: int = _MOST_GROUPS) -> tuple[Group, ...]:
    """Return the layers that can be in int8, in order, in at most ``most`` groups of adjacent ones.

    Every layer with weights or multiply-accumulates begins a group, and those without belong to the one before them, because a
    tensor between two operators is in floating point only where both are. While there are too many, the two neighbours that
    cost least together are joined.

    Raises:
        ValueError: ``most`` is below 1.
    """
    if most < 1:
        raise ValueError("most must be at least 1")
    groups: list[list[Layer]] = []
    for each in (layer for layer in layers if layer.quantizable):
        starts = not groups or (each.macs > 0 and any(other.macs for other in groups[-1]))
        if starts:
            groups.append([])
        groups[-1].append(each)
    while len(groups) > most:
        costs = [_cost(first) + _cost(second) for first, second in pairwise(groups)]
        place = costs.index(min(costs))
        groups[place : place + 2] = [groups[place] + groups[place + 1]]
    return tuple(
        Group(tuple(one.name for one in each), sum(one.macs for one in each), sum(one.weight_bytes for one in each))
        for each in groups
    )


def _cost(group: list[Layer]) -> int:
    return sum(each.macs + each.weight_bytes for each in group) + len(group)
