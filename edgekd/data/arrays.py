"""What arrays of numbers are: images or features, and how their values become raw samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import DataError

WHITE = 255
_CHANNELS = frozenset({1, 2, 3, 4})


@dataclass(frozen=True)
class Scale:
    """How values are stored: ``round(value * factor)`` as an integer, or as they are as ``float32``.

    Attributes:
        dtype: ``uint8`` or ``float32``.
        factor: 255 where 8-bit values were divided by 255.
        full_scale: Stored value that stands for 1.
    """

    dtype: np.dtype[Any]
    factor: int
    full_scale: float | None

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values as they are stored."""
        if self.dtype == np.float32:
            return values.astype(np.float32)
        return np.round(values * self.factor).astype(np.uint8) if values.dtype.kind == "f" else values.astype(np.uint8)


def image_layout(shape: tuple[int, ...], where: str) -> str:
    """Return ``NHW``, ``NHWC`` or ``NCHW`` of images, or ``NC`` of features.

    Where both the second and the last dimension can be channels, they are taken to be last.

    Args:
        shape: Of the whole array.
        where: What has it, for messages.

    Raises:
        DataError: It can be neither.
    """
    if len(shape) in {2, 3}:
        return "NC" if len(shape) == 2 else "NHW"
    if len(shape) == 4 and shape[3] in _CHANNELS:
        return "NHWC"
    if len(shape) == 4 and shape[1] in _CHANNELS:
        return "NCHW"
    raise DataError(
        f"{where} has shape {list(shape)}, which are neither images nor features",
        "expected is [n, d], [n, height, width], [n, height, width, channels] or [n, channels, height, width], 1 to 4 channels",
    )


def channels_last(rows: NDArray[Any], layout: str) -> NDArray[Any]:
    """Return images as ``[n, height, width, channels]``."""
    if layout == "NHW":
        return rows[..., np.newaxis]
    return rows.transpose(0, 2, 3, 1) if layout == "NCHW" else rows


def find_scale(slices: Iterable[NDArray[Any]], where: str) -> Scale:
    """Return how the values of images are stored, looking at all of them unless their type tells.

    Args:
        slices: All images, of one kind of number.
        where: What holds them, for messages.

    Raises:
        DataError: Values are negative, above 255, NaN or infinite.
    """
    lowest, highest, whole, steps, is_float = 0.0, 0.0, True, True, False
    for values in slices:
        if values.dtype == np.uint8:
            return Scale(np.dtype(np.uint8), 1, WHITE)
        if values.dtype == np.bool_:
            return Scale(np.dtype(np.uint8), 1, 1)
        is_float = values.dtype.kind == "f"
        if is_float and not np.isfinite(values).all():
            raise DataError(f"{where}: images hold NaN or infinity", "clean the data first")
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
        if lowest < 0 or highest > WHITE:
            raise DataError(
                f"{where}: images have values from {lowest:g} to {highest:g}, expected are 0 to 1 or 0 to 255",
                "save them before normalisation; values of another kind are features, of shape [n, d]",
            )
        if is_float:
            whole = whole and bool((values == np.round(values)).all())
            steps = steps and _in_steps(values)
    if is_float and highest <= 1:
        return Scale(np.dtype(np.uint8), WHITE, WHITE) if steps else Scale(np.dtype(np.float32), 1, 1)
    return Scale(np.dtype(np.uint8), 1, WHITE) if whole else Scale(np.dtype(np.float32), 1, WHITE)


def _in_steps(values: NDArray[Any]) -> bool:
    """Whether every value is a multiple of 1/255, as exactly as its type can hold it."""
    exact = values.astype(np.float64)
    nearest = np.round(exact * WHITE) / WHITE
    return bool((np.abs(exact - nearest) <= np.finfo(values.dtype).eps * nearest).all())


def to_features(rows: NDArray[Any], where: str, first: int = 0) -> NDArray[np.float32]:
    """Return rows of numbers as ``float32``.

    Args:
        rows: ``[n, d]``.
        where: What holds them, for messages.
        first: Index of the first row, for messages.

    Raises:
        DataError: A row holds NaN, infinity, or a number that float32 cannot hold.
    """
    with np.errstate(over="ignore"):
        made = rows.astype(np.float32)
    good = np.isfinite(made).all(axis=1)
    if not good.all():
        index = int(np.flatnonzero(~good)[0])
        raise DataError(f"{where}[{first + index}] holds NaN, infinity, or a number beyond 32 bits", "clean the data first")
    return made
