"""What every data source leaves in its cache: raw arrays, labels, names and given splits.

::

    NAME.npy      one raw array per input, row i belongs to sample i; text is ``text.jsonl`` instead
    labels.npy    int64 [n], class index
    parts.npy     uint8 [n], 0 where the sample is still to be split, else 1 train, 2 validation, 3 test
    ids.jsonl     one name per sample, by which its owner finds it again

Rows are appended as they are read, so that memory stays flat however much data there is.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgekd.safe.files import atomic_path

UNASSIGNED, TRAIN, VALIDATION, TEST = 0, 1, 2, 3
PARTS_BY_NAME = {
    "train": TRAIN, "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION, "dev": VALIDATION, "test": TEST,
}  # fmt: skip
"""What splits are called in files and folders."""
PART_NAMES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}
LABELS, PARTS, IDS, TEXTS = "labels.npy", "parts.npy", "ids.jsonl", "text.jsonl"
_HEADER_BYTES = 256

Advanced = Callable[[int, int, str], None]
"""Told of progress: parts done, parts in all, a note."""


@dataclass(frozen=True)
class Preview:
    """What a source holds, found out without decoding it all.

    Attributes:
        kind: ``image``, ``text``, ``waveform`` or ``features``.
        classes: Class names in index order.
        counts: Samples of each class.
        parts: Samples of each split the source brings, by name; empty where it is still to be split.
        samples: Three samples, one line each.
        shape: Of one sample as a network will see it, where that is known without decoding all: height, width and channels
            of images, by three of them; columns of features; values of a waveform; tokens of a text. ``None``: not known.
        sample_rate: Of a waveform, in Hz.
    """

    kind: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    parts: dict[str, int]
    samples: tuple[str, ...]
    shape: tuple[int, ...] | None = None
    sample_rate: int | None = None


class ArrayFile(AbstractContextManager["ArrayFile"]):
    """An ``.npy`` file that rows are appended to; its header is written at the end, when their number is known.

    It is written as a stream, because a full disk ends a process that writes through a memory map.

    Args:
        path: The file; it appears whole, at the end, or not at all.
        dtype: Of the rows.
        row_shape: Shape of one row; ``()`` for a number.
    """

    def __init__(self, path: Path, dtype: Any, row_shape: tuple[int, ...] = ()) -> None:
        self.dtype, self.row_shape, self.count = np.dtype(dtype), tuple(row_shape), 0
        self._path, self._stack = path, ExitStack()

    def __enter__(self) -> ArrayFile:
        temporary = self._stack.enter_context(atomic_path(self._path))
        self._file: IO[bytes] = self._stack.enter_context(temporary.open("wb"))
        self._file.write(b"\0" * _HEADER_BYTES)
        return self

    def append(self, rows: NDArray[Any]) -> None:
        """Append ``rows``, shape ``[any number, *row_shape]``."""
        if rows.shape[1:] != self.row_shape or rows.dtype != self.dtype:
            raise ValueError(f"rows of {rows.dtype} {rows.shape[1:]} do not fit a file of {self.dtype} {self.row_shape}")
        self._file.write(np.ascontiguousarray(rows).data if rows.size else b"")
        self.count += len(rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if kind is None:
            shape = (self.count, *self.row_shape)
            text = repr({"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape})
            prefix = np.lib.format.magic(1, 0) + (_HEADER_BYTES - 10).to_bytes(2, "little")
            self._file.seek(0)
            self._file.write(prefix + text.ljust(_HEADER_BYTES - 11).encode("ascii") + b"\n")
        return self._stack.__exit__(kind, error, trace)


class SampleWriter(AbstractContextManager["SampleWriter"]):
    """Labels, given splits and names of samples, written as they come; the files appear whole at the end.

    Args:
        cache: The folder that gets them.
    """

    def __init__(self, cache: Path) -> None:
        self._cache, self._stack = cache, ExitStack()
        self._labels, self._parts = array("q"), bytearray()

    def __enter__(self) -> SampleWriter:
        temporary = self._stack.enter_context(atomic_path(self._cache / IDS))
        self._ids: IO[str] = self._stack.enter_context(temporary.open("w", encoding="ascii"))
        return self

    def __len__(self) -> int:
        return len(self._labels)

    def append(self, label: int, part: int, name: str) -> None:
        """Add one sample: its class index, its split, and its name."""
        self._labels.append(label)
        self._parts.append(part)
        self._ids.write(json.dumps(name) + "\n")

    def counts(self, classes: int) -> list[int]:
        """Return the number of samples of each of ``classes`` classes."""
        return np.bincount(np.asarray(self._labels), minlength=classes).tolist() if self._labels else [0] * classes

    def relabel(self, order: Sequence[int]) -> None:
        """Give every sample of class ``i`` the class ``order[i]``: for sources that tell their classes as they go."""
        self._labels = array("q", np.asarray(order, np.int64)[np.asarray(self._labels)].tobytes())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if kind is None:
            for name, values, dtype in ((LABELS, self._labels, np.int64), (PARTS, self._parts, np.uint8)):
                with ArrayFile(self._cache / name, dtype) as file:
                    file.append(np.asarray(values, dtype))
        return self._stack.__exit__(kind, error, trace)


def write_samples(cache: Path, labels: Sequence[int], parts: Sequence[int], ids: Iterable[str]) -> None:
    """Write labels, given splits and names of all samples."""
    for name, values, dtype in ((LABELS, labels, np.int64), (PARTS, parts, np.uint8)):
        with ArrayFile(cache / name, dtype) as file:
            file.append(np.asarray(values, dtype))
    write_lines(cache / IDS, ids)


def write_lines(path: Path, values: Iterable[str]) -> None:
    """Write text values one per line, as JSON, so that any character survives."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii") as file:
        for value in values:
            file.write(json.dumps(value) + "\n")


def read_lines(path: Path) -> Iterable[str]:
    """Yield the values that :func:`write_lines` wrote."""
    with path.open(encoding="ascii") as file:
        for line in file:
            yield str(json.loads(line))
