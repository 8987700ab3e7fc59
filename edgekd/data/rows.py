"""Rows of an ``.npy`` file, read into memory where the file is small and from the disk where it is large.

A memory map would do for both, but every page of it that is touched counts as resident memory until the system
takes it back; a file read by position leaves nothing behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import DataError

MEBIBYTE = 1 << 20


class RowFile:
    """An ``.npy`` file whose rows are read when they are asked for.

    Args:
        path: The file, in C order, without Python objects.

    Attributes:
        path: The file.
        shape: Of the whole array; the first dimension counts rows.
        dtype: Of the values.

    Raises:
        DataError: The file is no such array.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            try:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                self.shape, fortran_order, self.dtype = read(file)
            except ValueError as error:
                raise DataError(f"{path} is no NumPy file: {str(error).splitlines()[0]}") from None
            self._start = file.tell()
        if fortran_order or self.dtype.hasobject or not self.shape:
            raise DataError(f"{path} is no array of rows that can be read one by one")
        self._row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: NDArray[np.int64] | slice) -> NDArray[Any]:
        """Return the rows at ``index``, in its order: what ``array[index]`` is for an array in memory."""
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)), dtype=np.int64)
        wanted, inverse = np.unique(index, return_inverse=True)
        if len(wanted) and (wanted[0] < 0 or wanted[-1] >= len(self)):
            raise IndexError(f"rows {wanted[0]} to {wanted[-1]} of {self.path}, which has {len(self)}")
        rows = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        view = rows.data.cast("B") if rows.size else memoryview(b"")
        # Neighbours in the file are read at once.
        edges = np.flatnonzero(np.diff(wanted) != 1) + 1
        with self.path.open("rb", buffering=0) as file:
            for start, stop in zip([0, *edges.tolist()], [*edges.tolist(), len(wanted)], strict=True):
                if view and stop > start:
                    file.seek(self._start + int(wanted[start]) * self._row_bytes)
                    self._fill(file, view[start * self._row_bytes : stop * self._row_bytes])
        return rows if np.array_equal(inverse, np.arange(len(rows))) else rows[inverse]

    def _fill(self, file: Any, place: memoryview) -> None:
        while place:
            count = file.readinto(place)
            if not count:
                raise DataError(f"{self.path} ends too early", "remove the run folder and start the run again")
            place = place[count:]


Rows = NDArray[Any] | RowFile
"""An array in memory or a file: both have ``shape`` and ``dtype``, and give rows for an index array or a slice."""


def open_rows(path: Path, memory_mib: int) -> Rows:
    """Return the rows of an ``.npy`` file: a read-only array if it has at most ``memory_mib`` MiB, else a :class:`RowFile`."""
    if path.stat().st_size > memory_mib * MEBIBYTE:
        return RowFile(path)
    array: NDArray[Any] = np.load(path, allow_pickle=False)
    array.flags.writeable = False
    return array
