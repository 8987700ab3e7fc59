"""The data of a run: raw samples, labels, names and splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.cache import read_lines
from edgekd.data.rows import Rows
from edgekd.data.splits import Splits
from edgekd.models.tensors import TensorSpec


@dataclass(frozen=True)
class Raw:
    """Raw values of one input.

    Attributes:
        path: ``.npy`` file.
        array: Its content, ``[n, ...]``, in memory or read from the file row by row, see :mod:`edgekd.data.rows`; images
            are ``[n, height, width, channels]``.
        full_scale: Raw value that stands for 1: 255 for 8-bit images, 32,768 for sounds. ``None``: values are taken as
            they are.
    """

    path: Path
    array: Rows
    full_scale: float | None


@dataclass(frozen=True)
class Dataset:
    """Samples, labels and splits, ready to train on.

    Attributes:
        kind: ``image``, ``text``, ``waveform`` or ``features``.
        raw: Raw values by input name.
        inputs: What a network trained on them takes, in calling order.
        labels: Class index of each sample, ``int64 [n]``.
        ids_file: Holds a name of each sample, by which its owner finds it again; see :attr:`ids`.
        classes: Class names in index order.
        splits: Indices of the train, validation and test samples.
        digest: SHA-256 over samples, labels, names and splits: the content key of everything downstream.
        skipped: Samples left out because they cannot be decoded.
        files: Files an app needs beside the model, by the name they are shipped under: ``vocab.txt``.
    """

    kind: str
    raw: dict[str, Raw]
    inputs: tuple[TensorSpec, ...]
    labels: NDArray[np.int64]
    ids_file: Path
    classes: tuple[str, ...]
    splits: Splits
    digest: str
    skipped: tuple[str, ...] = ()
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of all samples, read from their file."""
        return tuple(read_lines(self.ids_file))

    def batch(self, indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return samples as a network takes them: images ``float32 [len(indices), channels, height, width]``, normalised.

        Images lie in memory with their channels last, as they are stored and as networks train fastest.
        """
        return {each.name: self._normalised(self.raw[each.name], each, indices) for each in self.inputs}

    def batches(self, indices: NDArray[np.int64], size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield :meth:`batch` for slices of ``indices``, ``size`` at a time."""
        for start in range(0, len(indices), size):
            yield self.batch(indices[start : start + size])

    def _normalised(self, raw: Raw, spec: TensorSpec, indices: NDArray[np.int64]) -> NDArray[Any]:
        values = raw.array[indices]
        if raw.full_scale is not None:
            values = values.astype(np.float32)
            values /= np.float32(raw.full_scale)
        if spec.mean is not None and spec.std is not None:
            values = values.astype(np.float32, copy=raw.full_scale is None)
            # Statistics of whole samples: a short last axis would be walked through one channel at a time.
            values -= np.broadcast_to(np.asarray(spec.mean, np.float32), values.shape[1:]).copy()
            values /= np.broadcast_to(np.asarray(spec.std, np.float32), values.shape[1:]).copy()
        values = np.ascontiguousarray(values, dtype=spec.dtype)
        return values.transpose(0, 3, 1, 2) if spec.layout == "NCHW" else values
