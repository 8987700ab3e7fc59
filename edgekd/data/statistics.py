"""Mean and standard deviation of the training split, in one pass over slices: memory stays flat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.rows import Rows

_SLICE = 1_024
_SLICE_VALUES = 1 << 20


def image_statistics(images: Rows, train: NDArray[np.int64], white: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of ``images[train] / white``, rounded to six digits.

    8-bit images are counted in a histogram of raw values, which is exact whatever their order.
    A channel that never changes gets a deviation of 1.

    Args:
        images: ``uint8`` or float ``[n, height, width, channels]``.
        train: Indices of the training split.
        white: Raw value that stands for 1.
    """
    step = max(1, _SLICE_VALUES // int(np.prod(images.shape[1:])))
    slices = (images[train[start : start + step]] for start in range(0, len(train), step))
    if images.dtype != np.uint8:
        return _merged(pixels.reshape(-1, pixels.shape[-1]) / white for pixels in slices)
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for pixels in slices:
        for channel, row in enumerate(counts):
            row += np.bincount(pixels[..., channel].ravel(), minlength=256)
    values = np.arange(256) / white
    mean = (counts * values).sum(1) / counts.sum(1)
    deviation = np.sqrt((counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1))
    return _rounded(mean, deviation)


def feature_statistics(rows: Rows, train: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per column of ``rows[train]``; a column that never changes gets 1."""
    return _merged(rows[train[start : start + _SLICE]] for start in range(0, len(train), _SLICE))


def _merged(parts: Iterator[NDArray[Any]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per column of all parts, ``[any number, columns]`` each.

    Chan, Golub and LeVeque (1979): merging means and sums of squares loses no digits.
    """
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for each in parts:
        part = each.astype(np.float64)
        part_mean, total = part.mean(0), count + len(part)
        shift = part_mean - mean
        squares = squares + ((part - part_mean) ** 2).sum(0) + shift**2 * count * len(part) / total
        mean = mean + shift * len(part) / total
        count = total
    return _rounded(mean, np.sqrt(squares / count))


def _rounded(mean: NDArray[Any], deviation: NDArray[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return both with six digits after the point: plain numbers that read and write the same everywhere."""
    return tuple(round(float(each), 6) for each in mean), tuple(round(float(each), 6) or 1.0 for each in deviation)
