"""What a tensor's values were over many samples, in bounded memory: a histogram whose bins widen as larger values come.

A bin is as wide as a power of two and starts at a multiple of its width, so two bins of one width make one of the next, and the
histogram of some samples does not depend on their order. Exact zeros, of which a ReLU gives many and which int8 represents
without error, are counted apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.safe.files import atomic_path

_BINS = 1 << 13
"""On either side of zero; a one-sided tensor uses at least half of them."""


@dataclass(frozen=True)
class Histogram:
    """Of one tensor.

    Attributes:
        low, high: The least and the largest value.
        zeros: How many values were exactly 0.
        width: Of a bin, a power of two.
        first: Index of the first bin: it covers ``[first * width, (first + 1) * width)``.
        counts: Of the values in each bin, zeros left out, ``int64 [bins]``; the first and the last are not empty.
    """

    low: float
    high: float
    zeros: int
    width: float
    first: int
    counts: NDArray[np.int64]

    @property
    def edges(self) -> NDArray[np.float64]:
        """Where bins begin, and where the last one ends, ``float64 [bins + 1]``."""
        return np.arange(self.first, self.first + len(self.counts) + 1, dtype=np.float64) * self.width


class Gathering:
    """A histogram that grows."""

    def __init__(self) -> None:
        self.low, self.high, self.zeros = np.inf, -np.inf, 0
        self._exponent: int | None = None
        self._counts = np.zeros(2 * _BINS, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count ``values`` of any shape; those that are not finite, as the minus infinity of a mask, are left out."""
        flat = values.reshape(-1).astype(np.float64)
        flat = flat[np.isfinite(flat)]
        if not len(flat):
            return
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        some = flat[flat != 0]
        self.zeros += len(flat) - len(some)
        largest = max(-self.low, self.high)
        if not len(some):
            return
        # The largest value is below _BINS * 2**exponent, so that every index is in bounds.
        exponent = int(np.frexp(largest / _BINS)[1])
        if self._exponent is None:
            self._exponent = exponent
        for _ in range(exponent - self._exponent):
            halves = self._counts.reshape(-1, 2).sum(1)
            self._counts[:] = 0
            self._counts[_BINS // 2 : _BINS // 2 + _BINS] = halves
        self._exponent = max(exponent, self._exponent)
        bins = np.floor(some * 2.0**-self._exponent).astype(np.int64) + _BINS
        self._counts += np.bincount(bins, minlength=2 * _BINS)

    def result(self) -> Histogram:
        """Return what was seen; a tensor of which nothing was seen is 0."""
        used = np.flatnonzero(self._counts)
        if self._exponent is None or not len(used):
            return Histogram(0.0, 0.0, self.zeros, 1.0, 0, np.zeros(0, np.int64))
        counts = self._counts[used[0] : used[-1] + 1].copy()
        return Histogram(self.low, self.high, self.zeros, 2.0**self._exponent, int(used[0]) - _BINS, counts)


def save_histograms(histograms: Mapping[str, Histogram], path: Path) -> None:
    """Write histograms by name of tensor to ``path`` as ``.npz``."""
    arrays: dict[str, Any] = {"names": np.array(list(histograms), dtype=np.str_)}
    for index, each in enumerate(histograms.values()):
        arrays[f"{index}.facts"] = np.array([each.low, each.high, each.zeros, each.width, each.first], np.float64)
        arrays[f"{index}.counts"] = each.counts
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_histograms(path: Path) -> dict[str, Histogram]:
    """Return what :func:`save_histograms` wrote."""
    found = {}
    with np.load(path, allow_pickle=False) as archive:
        for index, name in enumerate(archive["names"].tolist()):
            low, high, zeros, width, first = archive[f"{index}.facts"].tolist()
            found[name] = Histogram(low, high, int(zeros), width, int(first), archive[f"{index}.counts"])
    return found
