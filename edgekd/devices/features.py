"""What the time of a network is a sum of: one number for each thing that its kernels do."""

from __future__ import annotations

from collections.abc import Iterable
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


def features_of(kernels: Iterable[Kernel]) -> NDArray[np.float64]:
    """Return the sums over the kernels of a network, in the order of :data:`FEATURES`."""
    total = np.zeros(len(FEATURES))
    for position, kernel in enumerate(kernels):
        total += kernel_features(kernel)
        if position == 0:
            total[_INDEX["input_values"]] += kernel.read
    return total


def kernel_features(kernel: Kernel) -> NDArray[np.float64]:
    """Return the numbers of one kernel, in the order of :data:`FEATURES`."""
    found = np.zeros(len(FEATURES))
    for name, value in _numbers(kernel).items():
        found[_INDEX[name]] += value
    found[_INDEX["kernels"]] = 1
    return found


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
