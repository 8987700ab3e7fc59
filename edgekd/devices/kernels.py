"""Kernels: the steps of a network as a runtime takes them, with what each computes and moves.

Runtimes fold a batch norm, a bias and a simple activation into the operator before it, so one kernel may be several operators
of a file. What a kernel takes in time depends on its class more than on anything else: a multiply-accumulate of a depthwise
convolution costs several of a pointwise one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Literal, get_args

from edgekd.inspect.graph import GraphDescription, OperatorDescription, Shape, TensorDescription

Kind = Literal[
    "pointwise",
    "conv3x3",
    "conv",
    "grouped",
    "depthwise",
    "matmul",
    "dense",
    "elementwise",
    "normalization",
    "pool",
    "movement",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Kernel:
    """A step of a network, for a batch of 1.

    Attributes:
        name: Of the operator that it is built around.
        kind: ``pointwise``: 1x1 convolutions; ``conv3x3``: 3x3 convolutions of stride 1, for which there are faster
            algorithms; ``conv``: other convolutions; ``grouped``; ``depthwise``; ``matmul``: products of matrices; ``dense``:
            a matrix meets one vector, limited by reading its weights; ``elementwise``; ``normalization``: over neighbouring
            channels, which takes powers; ``pool``; ``movement``: values only change place.
        macs: Multiply-accumulates.
        weights: Weights and biases read, in values.
        read, written: Activations, in values.
        stride: Of a convolution; 1 for anything else.
        size: Of the filter of a convolution or the window of a pool, for example 3; 1 for anything else.
        outputs: Channels that a convolution makes; 1 for anything else.
        apart: Whether it is an activation that TFLite computes in integers outside of XNNPACK, which has no kernel for it.
    """

    name: str
    kind: Kind
    macs: int
    weights: int
    read: int
    written: int
    stride: int = 1
    size: int = 1
    outputs: int = 1
    apart: bool = False

    @property
    def moved(self) -> int:
        """Activations read and written, in values."""
        return self.read + self.written


def kernels_of(graph: GraphDescription) -> tuple[Kernel, ...]:
    """Return the kernels of a graph, in order of execution.

    Sizes that the file leaves open count as nothing: :func:`unknown_operators` names the operators concerned.

    Args:
        graph: Quantized operators fused, as ``Inspection.fused`` has them.
    """
    made_by: dict[str, int] = {}
    kernels: list[Kernel] = []
    read_by = graph.consumers()
    for operator in graph.operators:
        if graph.is_folded(operator) or operator.kind in _FREE:
            if operator.inputs and operator.inputs[0] in made_by:
                made_by |= dict.fromkeys(operator.outputs, made_by[operator.inputs[0]])
            continue
        before = made_by.get(operator.inputs[0]) if operator.inputs else None
        alone = bool(operator.inputs) and len(read_by.get(operator.inputs[0], [])) == 1
        if operator.kind in _FUSED and before is not None and alone and _takes_fused(kernels[before], operator.kind):
            kernels[before] = replace(kernels[before], weights=kernels[before].weights + _weights(graph, operator)[0])
            index = before
        else:
            kernels.append(_kernel(graph, operator))
            index = len(kernels) - 1
        made_by |= dict.fromkeys(operator.outputs, index)
    return tuple(kernels)


def unknown_operators(graph: GraphDescription) -> tuple[str, ...]:
    """Return the names of operators whose cost the file does not tell: their shapes are open, or a graph is inside them."""
    return tuple(each.name for each in graph.operators if each.macs is None and not graph.is_folded(each))


def convolution_kind(groups: int, inputs: int, size: tuple[int, int], stride: int) -> Kind:
    """Return the class of a convolution.

    Args:
        groups: Groups of channels.
        inputs: Input channels, of all groups.
        size: Of the filter, height and width.
        stride: The larger of both.
    """
    if groups > 1:
        return "depthwise" if groups == inputs else "grouped"
    if size == (1, 1):
        return "pointwise"
    return "conv3x3" if size == (3, 3) and stride == 1 else "conv"


def _kernel(graph: GraphDescription, operator: OperatorDescription) -> Kernel:
    read = sum(each.elements or 0 for each in graph.activations(tuple(dict.fromkeys(operator.inputs))))
    written = sum(each.elements or 0 for each in graph.activations(operator.outputs))
    count, shape = _weights(graph, operator)
    kind = operator.kind.rpartition(".")[2]
    macs = operator.macs or 0
    if kind in _CONVOLUTIONS and shape is not None and len(shape) >= 3:
        return _convolution(graph, operator, shape, Kernel(operator.name, "conv", macs, count, read, written))
    if macs:
        vectors = macs / prod(shape) if shape else 0
        return Kernel(operator.name, "dense" if 0 < vectors <= 1 else "matmul", macs, count, read, written)
    category: Kind = "pool" if kind in _POOLS else "movement" if kind in _MOVEMENTS else "elementwise"
    if kind in _NORMALIZATIONS:
        category = "normalization"
    apart = kind in _APART and any("int8" in each.dtype for each in graph.activations(operator.inputs))
    return Kernel(operator.name, category, 0, count, read, written, apart=apart)


def _convolution(graph: GraphDescription, operator: OperatorDescription, filters: tuple[int, ...], kernel: Kernel) -> Kernel:
    given = next(graph.activations(operator.inputs), None)
    made = next(graph.activations(operator.outputs), None)
    if graph.format == "tflite":  # [outputs, height, width, inputs]; depthwise ones [1, height, width, outputs]
        inputs, size = _last(given), filters[1:-1]
        per_group = 1 if operator.kind.startswith("DEPTHWISE") else filters[-1]
        before, after = _spatial(given, 1, -1), _spatial(made, 1, -1)
    else:  # [outputs, inputs of a group, height, width]; transposed ones [inputs, outputs of a group, height, width]
        inputs, size = _at(given, 1), filters[2:]
        per_group = inputs if "Transpose" in operator.kind else filters[1]
        before, after = _spatial(given, 2, None), _spatial(made, 2, None)
    groups = inputs // per_group if per_group else 1
    stride = max((round(big / small) for big, small in zip(before, after, strict=False) if small), default=1)
    square = (size[0], size[-1] if len(size) > 1 else 1)
    kind: Kind = convolution_kind(groups, inputs, square, stride) if "rans" not in operator.kind.lower() else "conv"
    if kind == "pointwise" and after and all(each == 1 for each in after):
        kind = "dense"
    outputs = kernel.written // prod(after) if after and all(after) else 1
    return replace(kernel, kind=kind, stride=max(1, stride), size=max(size, default=1), outputs=outputs)


def _takes_fused(before: Kernel, kind: str) -> bool:
    """Whether a kernel takes the operator after it into itself: batch norms go into convolutions alone."""
    return before.macs > 0 if kind in _NORMS else before.kind != "movement"


def _weights(graph: GraphDescription, operator: OperatorDescription) -> tuple[int, tuple[int, ...] | None]:
    """Return the number of weights, and the shape of the largest; those computed from constants count as well."""
    count, largest, shape = 0, 0, None
    for name in operator.inputs:
        tensor = graph.tensors.get(name)
        if tensor is None or tensor.role not in ("weight", "derived") or tensor.elements is None or tensor.shape is None:
            continue
        count += tensor.elements
        if tensor.elements > largest and None not in tensor.shape:
            largest, shape = tensor.elements, tuple(each for each in tensor.shape if each is not None)
    return count, shape


def _spatial(tensor: TensorDescription | None, start: int, end: int | None) -> tuple[int, ...]:
    shape: Shape = () if tensor is None or tensor.shape is None else tensor.shape[start:end]
    return tuple(each or 0 for each in shape)


def _at(tensor: TensorDescription | None, axis: int) -> int:
    shape = () if tensor is None or tensor.shape is None else tensor.shape
    return (shape[axis] or 0) if len(shape) > axis else 0


def _last(tensor: TensorDescription | None) -> int:
    shape = () if tensor is None or tensor.shape is None else tensor.shape
    return (shape[-1] or 0) if shape else 0


_CONVOLUTIONS = frozenset({
    "Conv", "ConvInteger", "QLinearConv", "FusedConv", "NhwcConv", "ConvTranspose", "DeformConv",
    "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D",
})  # fmt: skip
_NORMS = frozenset({"BatchNormalization"})
_FUSED = _NORMS | {"Relu", "Clip", "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"}
"""Operators that become part of the kernel before them, where nothing else reads what that one makes."""
_FREE = frozenset({
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast", "Constant", "Shape", "ConstantOfShape", "Size",
    "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "SHAPE",
})  # fmt: skip
"""Operators that move nothing, or next to nothing."""
_APART = frozenset({"HARD_SWISH"})
_NORMALIZATIONS = frozenset({"LRN", "LOCAL_RESPONSE_NORMALIZATION"})
_POOLS = frozenset({
    "AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceSum",
    "QLinearAveragePool", "QLinearGlobalAveragePool", "AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN", "REDUCE_MAX", "SUM",
})  # fmt: skip
_MOVEMENTS = frozenset({
    "Transpose", "Concat", "QLinearConcat", "Split", "Slice", "Pad", "Gather", "GatherND", "Expand", "Tile", "DepthToSpace",
    "SpaceToDepth", "Resize", "Upsample", "TRANSPOSE", "CONCATENATION", "SPLIT", "SPLIT_V", "SLICE", "STRIDED_SLICE", "PAD",
    "PADV2", "MIRROR_PAD", "GATHER", "GATHER_ND", "TILE", "BROADCAST_TO", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "PACK", "UNPACK",
    "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR",
})  # fmt: skip
