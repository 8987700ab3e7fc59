"""Kernels of the MobileNet family as TensorFlow's models write it, at any width and resolution, from its tables of layers."""

from __future__ import annotations

from math import ceil

from edgekd.devices.kernels import Kernel, Kind, convolution_kind


class Layers:
    """Collects the kernels of a chain of layers; keeps the shape that the next one reads."""

    def __init__(self, resolution: int) -> None:
        self.kernels: list[Kernel] = []
        self.channels, self.size = 3, resolution

    def convolution(self, outputs: int, size: int, stride: int = 1, groups: int = 1) -> None:
        """Append a convolution with its activation, padded as SAME."""
        made = ceil(self.size / stride)
        kind = convolution_kind(groups, self.channels, (size, size), stride)
        weights = size * size * self.channels // groups * outputs
        read, written = self.channels * self.size**2, outputs * made**2
        if kind == "pointwise" and made == 1:
            kind = "dense"
        self._append(kind, weights * made**2, weights + outputs, read, written, stride, size, outputs)
        self.channels, self.size = outputs, made

    def depthwise(self, size: int, stride: int) -> None:
        """Append a depthwise convolution."""
        self.convolution(self.channels, size, stride, self.channels)

    def elementwise(self, inputs: int = 1) -> None:
        """Append an operator on ``inputs`` values of the current shape."""
        values = self.channels * self.size**2
        self._append("elementwise", 0, 0, inputs * values, values)

    def pool(self) -> None:
        """Append a mean over all places."""
        self._append("pool", 0, 0, self.channels * self.size**2, self.channels)
        self.size = 1

    def squeeze_and_excite(self, reduced: int) -> None:
        """Append a mean, two layers, a sigmoid and a product."""
        channels, size = self.channels, self.size
        self.pool()
        self.convolution(reduced, 1)
        self.convolution(channels, 1)
        self.elementwise()
        self.size = size
        values = channels * size**2
        self._append("elementwise", 0, 0, values + channels, values)

    def classifier(self, classes: int) -> None:
        """Append a dense layer and a softmax."""
        self.convolution(classes, 1)
        self.elementwise()

    def _append(
        self, kind: Kind, macs: int, weights: int, read: int, written: int, stride: int = 1, size: int = 1, outputs: int = 1
    ) -> None:  # fmt: skip
        name = f"{kind}_{len(self.kernels)}"
        self.kernels.append(Kernel(name, kind, macs, weights, read, written, stride, size, outputs))


def rounded(channels: float, least: int = 8) -> int:
    """Return a width as a multiple of 8 that is not more than a tenth below ``channels``."""
    value = max(least, int(channels + 4) // 8 * 8)
    return value + 8 if value < 0.9 * channels else value


def mobilenet_v1(width: float, resolution: int) -> list[Kernel]:
    """Return the kernels of MobileNetV1."""
    net = Layers(resolution)
    net.convolution(int(32 * width), 3, 2)
    for outputs, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1)):
        net.depthwise(3, stride)
        net.convolution(int(outputs * width), 1)
    net.pool()
    net.classifier(1001)
    return net.kernels


def mobilenet_v2(width: float, resolution: int) -> list[Kernel]:
    """Return the kernels of MobileNetV2; its last layer does not become narrower than 1280."""
    net = Layers(resolution)
    net.convolution(rounded(32 * width), 3, 2)
    for expansion, outputs, repeats, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for place in range(repeats):
            _inverted(net, expansion * net.channels, rounded(outputs * width), 3, stride if place == 0 else 1)
    net.convolution(max(1280, rounded(1280 * width)), 1)
    net.pool()
    net.classifier(1001)
    return net.kernels


def mobilenet_v3(
    width: float, resolution: int, *, large: bool, minimalistic: bool = False, by_ratio: bool = True
) -> list[Kernel]:  # fmt: skip
    """Return the kernels of MobileNetV3.

    Args:
        width: Multiplies the channels; the last layer keeps its own.
        resolution: Height and width of the image.
        large: Whether it is the large one.
        minimalistic: 3x3 filters, ReLU, and no squeeze-and-excite.
        by_ratio: Blocks expand by a ratio of their input, as TensorFlow's do; else to a width that is multiplied itself, as
            those of PyTorch and Paddle do.
    """
    net = Layers(resolution)
    net.convolution(rounded(16 * width), 3, 2)
    if not minimalistic:
        net.elementwise()
    for expanded, outputs, size, stride, squeeze, hard_swish in _V3_LARGE if large else _V3_SMALL:
        ratio = expanded / _V3_INPUTS[large][(expanded, outputs, size, stride)]
        wide = rounded(net.channels * ratio if by_ratio else expanded * width)
        _inverted(
            net, wide, rounded(outputs * width), 3 if minimalistic else size, stride,
            squeeze=0 if minimalistic or not squeeze else rounded(wide / 4), swish=hard_swish and not minimalistic,
        )  # fmt: skip
    net.convolution(rounded((960 if large else 576) * width), 1)
    if not minimalistic:
        net.elementwise()
    net.pool()
    net.convolution(1280 if large else 1024, 1)
    if not minimalistic:
        net.elementwise()
    net.classifier(1001)
    return net.kernels


def _inverted(
    net: Layers, expanded: int, outputs: int, size: int, stride: int, squeeze: int = 0, swish: bool = False
) -> None:  # fmt: skip
    """Append an inverted residual block."""
    inputs = net.channels
    if expanded != inputs:
        net.convolution(expanded, 1)
        if swish:
            net.elementwise()
    net.depthwise(size, stride)
    if squeeze:
        net.squeeze_and_excite(squeeze)
    if swish:
        net.elementwise()
    net.convolution(outputs, 1)
    if stride == 1 and inputs == outputs:
        net.elementwise(2)


_V3_LARGE = (
    (16, 16, 3, 1, False, False), (64, 24, 3, 2, False, False), (72, 24, 3, 1, False, False), (72, 40, 5, 2, True, False),
    (120, 40, 5, 1, True, False), (120, 40, 5, 1, True, False), (240, 80, 3, 2, False, True), (200, 80, 3, 1, False, True),
    (184, 80, 3, 1, False, True), (184, 80, 3, 1, False, True), (480, 112, 3, 1, True, True), (672, 112, 3, 1, True, True),
    (672, 160, 5, 2, True, True), (960, 160, 5, 1, True, True), (960, 160, 5, 1, True, True),
)  # fmt: skip
_V3_SMALL = (
    (16, 16, 3, 2, True, False), (72, 24, 3, 2, False, False), (88, 24, 3, 1, False, False), (96, 40, 5, 2, True, True),
    (240, 40, 5, 1, True, True), (240, 40, 5, 1, True, True), (120, 48, 5, 1, True, True), (144, 48, 5, 1, True, True),
    (288, 96, 5, 2, True, True), (576, 96, 5, 1, True, True), (576, 96, 5, 1, True, True),
)  # fmt: skip
"""Blocks of MobileNetV3: expanded width, output width, filter, stride, squeeze-and-excite, hard swish."""


def _inputs_of(blocks: tuple[tuple[int, int, int, int, bool, bool], ...]) -> dict[tuple[int, int, int, int], int]:
    """Return the input width of each block at a width of 1: expansion is a ratio of it."""
    widths = [16, *(block[1] for block in blocks)]
    return {block[:4]: before for block, before in zip(blocks, widths, strict=False)}


_V3_INPUTS = {True: _inputs_of(_V3_LARGE), False: _inputs_of(_V3_SMALL)}
