"""Mean and standard deviation of the training split, in one pass over slices: memory stays flat."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SLICE = 1_024


def image_statistics(
    images: NDArray[np.uint8], train: NDArray[np.int64], white: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of ``images[train] / white``, rounded to six digits.

    Counted from the histogram of raw values, which is exact whatever the order of the images.
    A channel that never changes gets a deviation of 1.
    """
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(train), _SLICE):
        pixels = images[train[start : start + _SLICE]]
        for channel, row in enumerate(counts):
            row += np.bincount(pixels[..., channel].ravel(), minlength=256)
    values = np.arange(256) / white
    mean = (counts * values).sum(1) / counts.sum(1)
    deviation = np.sqrt((counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1))
    return _rounded(mean, deviation)


def feature_statistics(rows: NDArray[np.float32], train: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per column of ``rows[train]``; a column that never changes gets 1."""
    count, mean, squares = 0, np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for start in range(0, len(train), _SLICE):
        part = rows[train[start : start + _SLICE]].astype(np.float64)
        # Chan, Golub and LeVeque (1979): merging means and sums of squares loses no digits.
        part_mean, total = part.mean(0), count + len(part)
        shift = part_mean - mean
        squares += ((part - part_mean) ** 2).sum(0) + shift**2 * count * len(part) / total
        mean += shift * len(part) / total
        count = total
    return _rounded(mean, np.sqrt(squares / count))


def _rounded(mean: NDArray[Any], deviation: NDArray[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return both with six digits after the point: plain numbers that read and write the same everywhere."""
    return tuple(round(float(each), 6) for each in mean), tuple(round(float(each), 6) or 1.0 for each in deviation)
