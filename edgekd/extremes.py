"""Sixty-four inputs that no data set has: everything lowest, highest or equal, checkerboards, stripes, impulses, noise.

Photographs do not show a missing clamp, a wrong padding value or an integer that wraps around; these do. All are legal: raw
values as a camera, a microphone or a tokenizer could give them, and none is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.dataset import Dataset, Raw
from edgekd.models.tensors import TensorSpec

COUNT = 64
_ROWS = 4096


def extreme_samples(data: Dataset, folder: Path) -> Dataset:
    """Return a data set of :data:`COUNT` extreme samples in place of those of ``data``.

    Only samples are replaced: its labels and splits are those of ``data`` and mean nothing here.

    Args:
        data: Says what inputs are like: shape, dtype, full scale, and for features the range seen in training.
        folder: Gets one ``.npy`` file per input.
    """
    raw = {}
    for spec in data.inputs:
        given = data.raw[spec.name]
        values = _values(spec, given, data.splits.train)
        path = folder / f"extreme-{spec.name}.npy"
        np.save(path, values, allow_pickle=False)
        raw[spec.name] = Raw(path, values, given.full_scale)
    return replace(data, raw=raw)


def _values(spec: TensorSpec, given: Raw, train: NDArray[np.int64]) -> NDArray[Any]:
    shape, dtype = tuple(given.array.shape[1:]), given.array.dtype
    if spec.meaning == "mask":
        mask = np.ones((COUNT, *shape), dtype)
        mask[3::4, ..., max(1, shape[-1] // 2) :] = 0
        return mask
    unit = np.stack(list(_patterns(shape)))
    if spec.meaning == "tokens":
        low, high = np.float64(0), np.float64((spec.vocabulary or 2) - 1)
    elif given.full_scale is not None:
        low, high = np.float64(-given.full_scale if spec.meaning == "waveform" else 0), np.float64(given.full_scale)
    else:
        seen = given.array[train[np.linspace(0, len(train) - 1, min(_ROWS, len(train))).astype(np.int64)]]
        low, high = seen.min(0), seen.max(0)
    values = low + unit * (high - low)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        values = np.clip(np.round(values), limits.min, limits.max)
    return np.ascontiguousarray(values.astype(dtype))


def _patterns(shape: tuple[int, ...]) -> Iterator[NDArray[np.float64]]:
    """Yield :data:`COUNT` arrays of ``shape`` in [0, 1]; an image's channels are last, anything else has one axis."""
    made = 0
    for each in _drawn(shape):
        made += 1
        yield each
    random = np.random.default_rng(0)
    for index in range(made, COUNT):
        # From rare to frequent peaks: sums of few large values and of many.
        yield (random.random(shape) < (index - made + 1) / (COUNT - made + 1)).astype(np.float64)


def _drawn(shape: tuple[int, ...]) -> Iterator[NDArray[np.float64]]:
    spatial = shape[:2] if len(shape) == 3 else shape
    channels = shape[2] if len(shape) == 3 else 1

    def spread(plane: NDArray[Any]) -> NDArray[np.float64]:
        return np.repeat(plane[..., None], channels, axis=-1).reshape(shape).astype(np.float64)

    places = np.indices(spatial)
    for level in (0.0, 1.0, 0.5, 0.25, 0.75, 1 / 255, 254 / 255):
        yield np.full(shape, level)
    for period in (1, 2, 4):
        board = sum(axis // period for axis in places) % 2
        yield spread(board)
        yield spread(1 - board)
    for axis, size in zip(places, spatial, strict=True):
        yield spread(axis % 2)
        yield spread(axis < size / 2)
        yield spread(axis >= size / 2)
        yield spread(axis / max(1, size - 1))
    for fractions in (0.0, 0.5, 1.0):
        at = tuple(round(fractions * (size - 1)) for size in spatial)
        impulse = np.zeros(spatial)
        impulse[at] = 1
        yield spread(impulse)
        yield spread(1 - impulse)
    for channel in range(min(channels, 4) if channels > 1 else 0):
        one = np.zeros(shape)
        one[..., channel] = 1
        yield one
        yield 1 - one
