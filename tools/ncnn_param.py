"""Read the kernels of a network from an ncnn ``.param`` file, a text that lists layers and how they are connected."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path

from edgekd.devices.kernels import Kernel, Kind, convolution_kind

Shape = tuple[int, ...]
"""Channels, height, width; or fewer dimensions, the last one the fastest."""


@dataclass(frozen=True)
class Layer:
    """A line of the file."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: dict[int, str]

    def number(self, key: int, default: int) -> int:
        """Return an option as an integer."""
        return int(float(self.options.get(key, default)))


def read_param(path: Path) -> list[Layer]:
    """Return the layers of a ``.param`` file."""
    layers = []
    for line in path.read_text().splitlines()[2:]:
        words = line.split()
        if len(words) < 4:
            continue
        inputs, outputs = int(words[2]), int(words[3])
        names = words[4 : 4 + inputs + outputs]
        options = dict(each.split("=", 1) for each in words[4 + inputs + outputs :])
        layers.append(Layer(words[0], words[1], tuple(names[:inputs]), tuple(names[inputs:]),
                            {int(key): value for key, value in options.items() if key.lstrip("-").isdigit()}))  # fmt: skip
    return layers


def ncnn_kernels(path: Path, input_shape: Shape) -> list[Kernel]:
    """Return the kernels of a network.

    Args:
        path: A ``.param`` file.
        input_shape: Channels, height, width.

    Raises:
        ValueError: A layer is of a kind that is not known here.
    """
    shapes: dict[str, Shape] = {}
    made_by: dict[str, str] = {}
    kernels: list[Kernel] = []
    for layer in read_param(path):
        given = [shapes[name] for name in layer.inputs]
        outputs, kernel = _step(layer, given, input_shape)
        shapes |= dict(zip(layer.outputs, outputs, strict=True))
        source = made_by.get(layer.inputs[0], "") if layer.inputs else ""
        fused = (layer.kind in ("ReLU", "BatchNorm") and source == "conv") or (layer.kind == "ReLU" and source == "sum")
        if kernel is not None and not fused:
            kernels.append(kernel)
        role = "conv" if kernel is not None and kernel.macs else "sum" if layer.kind in ("Eltwise", "BinaryOp") else ""
        made_by |= dict.fromkeys(layer.outputs, source if layer.kind == "Split" or fused else role)
    return kernels


def _step(layer: Layer, given: list[Shape], input_shape: Shape) -> tuple[list[Shape], Kernel | None]:
    kind, first = layer.kind, given[0] if given else ()
    if kind == "Input":
        return [input_shape], None
    if kind == "MemoryData":
        return [tuple(layer.number(key, 0) for key in (2, 1, 0) if layer.number(key, 0))], None
    if kind in ("Split", "Noop", "Dropout"):
        return [first] * len(layer.outputs), None
    if kind in _CONVOLUTIONS:
        return _convolution(layer, first)
    if kind in ("InnerProduct", "Gemm"):
        return _product(layer, first)
    if kind == "MultiHeadAttention":
        return _attention(layer, first)
    if kind in ("Reshape", "Flatten"):
        return [_reshaped(layer, first)], None
    made = _moved_shapes(layer, given)
    if made is not None:
        if kind not in ("Pooling", "Reduction"):
            return made, _kernel(layer, "movement", given, made)
        return made, replace(_kernel(layer, "pool", given, made), size=layer.number(1, 1) if kind == "Pooling" else 1)
    if kind in _ELEMENTWISE:
        largest = max(given, key=prod)
        return [largest], _kernel(layer, "normalization" if kind == "LRN" else "elementwise", given, [largest])
    if kind in _DETECTIONS:
        return [(1, 6)] * len(layer.outputs), _kernel(layer, "elementwise", given, [])
    raise ValueError(f"{layer.name}: layers of kind {kind} are not known")


def _kernel(layer: Layer, kind: Kind, given: list[Shape], made: list[Shape], macs: int = 0, weights: int = 0) -> Kernel:
    return Kernel(layer.name, kind, macs, weights, sum(map(prod, given)), sum(map(prod, made)))


def _convolution(layer: Layer, given: Shape) -> tuple[list[Shape], Kernel]:
    channels, height, width = given
    outputs, size_w = layer.number(0, 0), layer.number(1, 0)
    size_h, stride_w = layer.number(11, size_w), layer.number(3, 1)
    stride_h, dilation = layer.number(13, stride_w), layer.number(2, 1)
    groups = layer.number(7, 1) if "DepthWise" in layer.kind else 1
    weights = layer.number(6, 0)
    if layer.kind.startswith("Deconvolution"):
        made = (outputs, (height - 1) * stride_h + size_h - 2 * layer.number(14, layer.number(4, 0)),
                (width - 1) * stride_w + size_w - 2 * layer.number(4, 0))  # fmt: skip
        macs = prod(given) * weights // channels
        return [made], _kernel(layer, "conv", [given], [made], macs, weights + outputs)
    left = layer.number(4, 0)
    top = layer.number(14, left)
    if left in (-233, -234):  # as TensorFlow's SAME
        made = (outputs, ceil(height / stride_h), ceil(width / stride_w))
    else:
        right, bottom = layer.number(15, left), layer.number(16, top)
        reach_h, reach_w = dilation * (size_h - 1) + 1, dilation * (size_w - 1) + 1
        made = (outputs, (height + top + bottom - reach_h) // stride_h + 1, (width + left + right - reach_w) // stride_w + 1)
    macs = made[1] * made[2] * weights
    stride = max(stride_h, stride_w)
    kind: Kind = convolution_kind(groups, channels, (size_h, size_w), stride)
    if kind == "pointwise" and made[1:] == (1, 1):
        kind = "dense"
    kernel = Kernel(layer.name, kind, macs, weights + outputs, prod(given), prod(made), stride, max(size_h, size_w), outputs)
    return [made], kernel


def _product(layer: Layer, given: Shape) -> tuple[list[Shape], Kernel]:
    if layer.kind == "InnerProduct":
        outputs, weights = layer.number(0, 0), layer.number(2, 0)
        inputs = weights // outputs
    else:
        outputs, inputs = layer.number(8, 0), layer.number(9, 0)
        weights = outputs * inputs
    rows = prod(given) // inputs
    made = (outputs,) if rows == 1 else (rows, outputs)
    kind: Kind = "dense" if rows == 1 else "matmul"
    return [made], _kernel(layer, kind, [given], [made], rows * weights, weights + outputs)


def _attention(layer: Layer, given: Shape) -> tuple[list[Shape], Kernel]:
    width, weights, length = layer.number(0, 0), layer.number(2, 0), given[0]
    return [given], _kernel(layer, "matmul", [given], [given], 4 * length * weights + 2 * length * length * width, 4 * weights)


def _reshaped(layer: Layer, given: Shape) -> Shape:
    if layer.kind == "Flatten":
        return (prod(given),)
    wanted = [layer.number(key, -233) for key in (2, 1, 0)]
    shape = [each for each in wanted if each != -233]
    axes = list(given[-len(shape) :]) if len(shape) <= len(given) else [1] * (len(shape) - len(given)) + list(given)
    shape = [axis if each == 0 else each for each, axis in zip(shape, axes, strict=True)]
    known = prod(each for each in shape if each != -1)
    return tuple(prod(given) // known if each == -1 else each for each in shape)


def _moved_shapes(layer: Layer, given: list[Shape]) -> list[Shape] | None:
    kind, first = layer.kind, given[0] if given else ()
    if kind == "Concat":
        axis = layer.number(0, 0)
        return [(*first[:axis], sum(each[axis] for each in given), *first[axis + 1 :])]
    if kind == "Pooling":
        return [_pooled(layer, first)]
    if kind == "Reduction":
        return [(first[0], 1, 1) if len(first) == 3 and layer.number(4, 0) else (first[0],)]
    if kind == "Padding":
        top, bottom, left, right = (layer.number(key, 0) for key in range(4))
        return [(first[0] + layer.number(7, 0) + layer.number(8, 0), first[1] + top + bottom, first[2] + left + right)]
    if kind == "Slice":
        return _sliced(layer, first)
    if kind == "Crop":
        return [_cropped(layer, given)]
    if kind == "Interp":
        height, width = layer.number(3, 0), layer.number(4, 0)
        scales = float(layer.options.get(1, 1)), float(layer.options.get(2, 1))
        return [(first[0], height or int(first[1] * scales[0]), width or int(first[2] * scales[1]))]
    if kind == "Permute":
        return [tuple(reversed(first)) if len(first) == 2 else (first[1], first[2], first[0])]
    return [first] if kind == "ShuffleChannel" else [(2, prod(first))] if kind == "PriorBox" else None


def _pooled(layer: Layer, given: Shape) -> Shape:
    channels, height, width = given
    if layer.number(4, 0):
        return (channels,)
    if layer.number(7, 0):
        return (channels, layer.number(18, layer.number(8, 1)), layer.number(8, 1))
    size, stride, pad, mode = layer.number(1, 0), layer.number(2, 1), layer.number(3, 0), layer.number(5, 0)
    rounded = ceil if mode == 0 else int
    if mode in (2, 3):
        return (channels, ceil(height / stride), ceil(width / stride))
    return (channels, rounded((height + 2 * pad - size) / stride) + 1, rounded((width + 2 * pad - size) / stride) + 1)


def _sliced(layer: Layer, given: Shape) -> list[Shape]:
    axis, left = layer.number(1, 0), given[layer.number(1, 0)]
    counts = [int(each) for each in layer.options.get(-23300, "").split(",")[1:]] or [-233] * len(layer.outputs)
    made = []
    for place, count in enumerate(counts):
        here = left // (len(counts) - place) if count == -233 else count
        left -= here
        made.append((*given[:axis], here, *given[axis + 1 :]))
    return made


def _cropped(layer: Layer, given: list[Shape]) -> Shape:
    if len(given) > 1:
        return given[1]
    first = list(given[0])
    if -23309 in layer.options:
        lists = (layer.options.get(key, "").split(",")[1:] for key in (-23309, -23310, -23311))
        starts, ends, axes = ([int(each) for each in values] for values in lists)
        for place, axis in enumerate(axes or range(len(starts))):
            end = min(ends[place] if ends[place] >= 0 else first[axis] + ends[place], first[axis])
            first[axis] = max(1, end - starts[place])
        return tuple(first)
    sizes = layer.number(5, 0), layer.number(4, 0), layer.number(3, 0)
    return tuple(wanted if wanted > 0 else size for wanted, size in zip(sizes, first, strict=True))


_CONVOLUTIONS = frozenset({"Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise"})
_ELEMENTWISE = frozenset({
    "ReLU", "BatchNorm", "BinaryOp", "Eltwise", "Swish", "HardSwish", "HardSigmoid", "Sigmoid", "Softmax", "LayerNorm", "GELU",
    "LRN", "Scale", "UnaryOp", "PReLU",
})  # fmt: skip
_DETECTIONS = frozenset({"DetectionOutput", "YoloDetectionOutput", "Yolov3DetectionOutput"})
