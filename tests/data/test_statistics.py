"""Means and deviations, against NumPy over everything at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekd.data.rows import RowFile
from edgekd.data.statistics import feature_statistics, image_statistics


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3000), st.integers(1, 4), st.integers(0, 99), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_features(count: int, columns: int, seed: int, centre: float, spread: float) -> None:
    rows = np.random.default_rng(seed).normal(centre, spread, (count, columns)).astype(np.float32)
    train = np.flatnonzero(np.random.default_rng(seed).random(count) < 0.8)
    train = train if len(train) else np.asarray([0])
    mean, deviation = feature_statistics(rows, train)
    exact = rows[train].astype(np.float64)
    assert mean == pytest.approx(exact.mean(0), abs=1e-5)
    expected = [each if round(each, 6) else 1.0 for each in exact.std(0)]
    assert deviation == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_images_in_memory_and_from_the_disk(tmp_path: Path, kind: type) -> None:
    images: NDArray[Any] = np.random.default_rng(0).integers(0, 256, (90, 70, 60, 3)).astype(kind)
    train = np.arange(5, 85)
    np.save(tmp_path / "a.npy", images)
    mean, deviation = image_statistics(images, train, 255)
    assert image_statistics(RowFile(tmp_path / "a.npy"), train, 255) == (mean, deviation)
    exact = images[train].astype(np.float64) / 255
    assert mean == pytest.approx(exact.mean((0, 1, 2)), abs=1e-6)
    assert deviation == pytest.approx(exact.std((0, 1, 2)), abs=1e-6)


def test_a_flat_column_gets_a_deviation_of_1() -> None:
    assert feature_statistics(np.full((5, 1), 7, np.float32), np.arange(5)) == ((7.0,), (1.0,))
    assert image_statistics(np.full((5, 2, 2, 1), 0.5, np.float32), np.arange(5), 1) == ((0.5,), (1.0,))
