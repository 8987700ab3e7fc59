"""Rows by position: the same values as an array in memory, whatever is asked for."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edgekd.data.rows import RowFile, open_rows
from edgekd.errors import DataError


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["u1", "<f4", ">i2", "<i4", "?"]).flatmap(lambda kind: arrays(kind, array_shapes(max_dims=4, max_side=7))),
    st.lists(st.integers(0, 10**6), max_size=30),
    st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
)
def test_rows_are_those_of_the_array(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, numbers: list[int], ends: tuple[int, int]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.npy"
    np.save(path, array)
    file = RowFile(path)
    indices = np.asarray(numbers, np.int64) % len(array)
    assert (file.shape, file.dtype, len(file)) == (array.shape, array.dtype, len(array))
    for found, expected in [
        (file[indices], array[indices]),
        (file[slice(*ends)], array[slice(*ends)]),
        (file[::2], array[::2]),
    ]:
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()


def test_the_budget_decides_and_an_array_in_memory_is_read_only(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(2**20 - 128, np.uint8))
    assert (tmp_path / "a.npy").stat().st_size == 2**20
    array = open_rows(tmp_path / "a.npy", 1)
    assert isinstance(array, np.ndarray)
    assert not array.flags.writeable
    np.save(tmp_path / "b.npy", np.zeros(2**20 - 127, np.uint8))
    assert isinstance(open_rows(tmp_path / "b.npy", 1), RowFile)


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 3)))
    for wrong in (4, -1):
        with pytest.raises(IndexError):
            RowFile(path)[np.asarray([0, wrong])]
    path.write_bytes(path.read_bytes()[:-1])
    file = RowFile(path)
    assert file[:3].shape == (3, 3)
    with pytest.raises(DataError, match="ends too early"):
        file[:]


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"no array")
    with pytest.raises(DataError, match="is no NumPy file"):
        RowFile(path)
    np.save(path, np.asfortranarray(np.zeros((2, 3))))
    with pytest.raises(DataError, match="no array of rows"):
        RowFile(path)
    np.save(path, np.asarray([None]), allow_pickle=True)
    with pytest.raises(DataError, match="no array of rows"):
        RowFile(path)
