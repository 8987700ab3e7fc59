"""What the time of a network is a sum of: one number for each thing that its kernels do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from edgekd.devices.kernels import Kernel

FEATURES = (
    "pointwise_macs", "pointwise_values", "conv3x3_macs", "winograd_macs", "conv3x3_values", "conv_macs", "conv_values",
    "grouped_macs", "grouped_values", "depthwise_macs", "depthwise_values", "matmul_macs", "dense_weights", "conv_weights",
    "elementwise_values", "normalization_values", "pool_values", "moved_values", "kernels", "input_values",
)  # fmt: skip
"""Names of the numbers. ``macs``: multiply-accumulates; ``values``: activations read and written; ``weights``: values read.

``conv3x3_macs`` and ``winograd_macs`` count the same layers: the first for runtimes that compute them directly, the second
the multiplications that are left in Winograd's algorithm. A runtime has a coefficient for one of both.
"""
_INDEX = {name: index for index, name in enumerate(FEATURES)}
_FEWEST_CHANNELS = 8
"""With fewer input channels no runtime takes Winograd's algorithm: the layer counts among other convolutions."""
_WINOGRAD = ((2, 16), (4, 36), (6, 64))
"""Width of a tile of outputs, and multiplications for it."""


@dataclass(frozen=True)
class Counting:
    """How the work of a network is counted, as a runtime on a device does it.

    Attributes:
        outputs, inputs: Channels of convolutions are rounded up to multiples of these, because so many are computed at once;
            fewer input channels than that, as those of an image, are not rounded.
        apart: Whether integer activations that XNNPACK has no kernel for count by themselves, as ``normalization_values``.
            Published latencies of such networks are too few to tell.
    """

    outputs: int = 1
    inputs: int = 1
    apart: bool = False


PLAIN = Counting()


def features_of(kernels: Iterable[Kernel], counting: Counting = PLAIN) -> NDArray[np.float64]:
    """Return the sums over the kernels of a network, in the order of :data:`FEATURES`.

    Args:
        kernels: Of the network.
        counting: How its work is counted.
    """
    total = np.zeros(len(FEATURES))
    for position, kernel in enumerate(kernels):
        total += kernel_features(kernel, counting)
        if position == 0:
            total[_INDEX["input_values"]] += kernel.read
    return total


def kernel_features(kernel: Kernel, counting: Counting = PLAIN) -> NDArray[np.float64]:
    """Return the numbers of one kernel, in the order of :data:`FEATURES`; arguments as of :func:`features_of`."""
    found = np.zeros(len(FEATURES))
    for name, value in _numbers(_counted(kernel, counting)).items():
        found[_INDEX[name]] += value
    found[_INDEX["kernels"]] = 1
    return found


def _counted(kernel: Kernel, counting: Counting) -> Kernel:
    """Return a kernel with the work that a runtime has with it."""
    if counting.apart and kernel.apart:
        return replace(kernel, kind="normalization")
    if kernel.kind not in ("pointwise", "conv3x3", "conv", "depthwise") or kernel.outputs < 2:
        return kernel
    share = ceil(kernel.outputs / counting.outputs) * counting.outputs / kernel.outputs
    inputs = kernel.macs / max(kernel.written * kernel.size**2, 1)
    if kernel.kind != "depthwise" and inputs >= counting.inputs:
        share *= ceil(inputs / counting.inputs - 1e-9) * counting.inputs / inputs
    return replace(kernel, macs=round(kernel.macs * share))


def _numbers(kernel: Kernel) -> dict[str, float]:
    kind = kernel.kind
    if kind == "conv3x3":
        if kernel.macs < _FEWEST_CHANNELS * 9 * kernel.written:
            kind = "conv"
        else:
            return {
                "conv3x3_macs": kernel.macs, "winograd_macs": kernel.macs * winograd_share(kernel.written / kernel.outputs),
                "conv3x3_values": kernel.moved, "conv_weights": kernel.weights,
            }  # fmt: skip
    if kind in ("pointwise", "conv", "grouped", "depthwise"):
        return {f"{kind}_macs": kernel.macs, f"{kind}_values": kernel.moved, "conv_weights": kernel.weights}
    if kind == "matmul":
        return {"matmul_macs": kernel.macs, "pointwise_values": kernel.moved, "conv_weights": kernel.weights}
    if kind == "dense":
        return {"dense_weights": kernel.weights}
    if kind == "pool":
        return {"pool_values": max(kernel.moved, kernel.written * kernel.size**2)}
    if kind == "movement":
        return {"moved_values": kernel.moved}
    return {f"{kind}_values": kernel.moved}


def winograd_share(places: float) -> float:
    """Return the share of multiplications that the best of Winograd's algorithms leaves of a 3x3 convolution.

    Args:
        places: Outputs of a channel, height times width; tiles that reach over the border are computed whole.
    """
    side = sqrt(max(places, 1.0))
    return min(ceil(side / tile - 1e-9) ** 2 * count for tile, count in _WINOGRAD) / (9 * max(places, 1.0))
