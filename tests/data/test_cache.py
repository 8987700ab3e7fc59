"""What sources write: files that NumPy reads, whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.data.cache import IDS, LABELS, PARTS, ArrayFile, SampleWriter, read_lines


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.text()), max_size=40), st.permutations(range(5)))
def test_samples_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, str]], order: list[int]
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    with SampleWriter(cache) as samples:
        for row in rows:
            samples.append(*row)
        assert samples.counts(5) == [sum(row[0] == label for row in rows) for label in range(5)]
        samples.relabel(order)
    labels = np.load(cache / LABELS)
    assert labels.dtype == np.int64
    assert labels.tolist() == [order[row[0]] for row in rows]
    assert np.load(cache / PARTS).tolist() == [row[1] for row in rows]
    assert list(read_lines(cache / IDS)) == [row[2] for row in rows]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), SampleWriter(tmp_path) as samples, ArrayFile(tmp_path / "a.npy", np.uint8, (2,)) as file:
        samples.append(0, 0, "a")
        file.append(np.zeros((1, 2), np.uint8))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_shape_or_type_are_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit"), ArrayFile(tmp_path / "a.npy", np.uint8, (2,)) as file:
        file.append(np.zeros((1, 3), np.uint8))
    with pytest.raises(ValueError, match="do not fit"), ArrayFile(tmp_path / "a.npy", np.uint8, (2,)) as file:
        file.append(np.zeros((1, 2), np.int8))
