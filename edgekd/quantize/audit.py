"""What calibration samples must be: of the training split alone, evenly of every class, prepared as training does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.dataset import Dataset
from edgekd.errors import DataError

_ROWS = 256
_LENIENCE = 1e-3
"""By which a value may lie outside its range, as a share of it: rounding."""


def audit(data: Dataset, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
    """Return ``chosen`` without the samples that another split holds as well, and those.

    That indices of splits are disjoint says nothing of copies: a sample whose raw values are those of a validation or test
    sample would let that be seen.

    Raises:
        DataError: A sample is of another split, or what is made of it lies outside the range that training has.
    """
    splits = data.splits
    if not np.isin(chosen, splits.train).all():
        raise DataError("calibration samples are not all of the training split", "this is a bug, please report it")
    judged = set(_digests(data, np.concatenate([splits.validation, splits.test])))
    copies = np.array([each in judged for each in _digests(data, chosen)], bool)
    kept = chosen[~copies]
    for start in range(0, len(kept), _ROWS):
        check_range(data, data.batch(kept[start : start + _ROWS]))
    return kept, chosen[copies].tolist()


def check_range(data: Dataset, batch: dict[str, NDArray[Any]]) -> None:
    """Refuse a batch with values outside what preprocessing makes of the range of raw values.

    Raises:
        DataError: Says which input, what it should hold and what it holds.
    """
    for spec in data.inputs:
        values = batch[spec.name]
        if spec.value_range is None or data.raw[spec.name].full_scale is None:
            continue
        low, high = (np.asarray(each, np.float64) for each in spec.value_range)
        if spec.mean is not None and spec.std is not None:
            mean, std = np.asarray(spec.mean, np.float64), np.asarray(spec.std, np.float64)
            low, high = (low - mean) / std, (high - mean) / std
        least, largest = float(np.min(low)), float(np.max(high))
        margin = _LENIENCE * (largest - least)
        if not (np.isfinite(values).all() and values.min() >= least - margin and values.max() <= largest + margin):
            raise DataError(
                f"calibration samples of '{spec.name}' range from {values.min():.3g} to {values.max():.3g}, "
                f"training's from {least:.3g} to {largest:.3g}",
                "they must be prepared as training samples are",
            )


def balance(data: Dataset, chosen: NDArray[np.int64]) -> tuple[int, int]:
    """Return how many of ``chosen`` the least and the most frequent class has."""
    counts = np.bincount(data.labels[chosen], minlength=len(data.classes))
    return int(counts.min()), int(counts.max())


def _digests(data: Dataset, indices: NDArray[np.int64]) -> Iterator[bytes]:
    """Yield a digest of the raw values of each sample, all its inputs together."""
    for start in range(0, len(indices), _ROWS):
        rows = [np.ascontiguousarray(each.array[indices[start : start + _ROWS]]) for each in data.raw.values()]
        for parts in zip(*rows, strict=True):
            digest = hashlib.blake2b(digest_size=16)
            for part in parts:
                digest.update(part.tobytes())
            yield digest.digest()
