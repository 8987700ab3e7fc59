"""The embedded digits through the loader, against scikit-learn and NumPy."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from edgekd.data.statistics import image_statistics
from edgekd.errors import DataError
from edgekd.recipe import Data, Recipe
from tests.digits_data import digits_data


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    data = digits_data(tmp_path)
    raw = load_digits()
    assert np.array_equal(data.raw["image"].array[:][..., 0], raw.images)
    assert np.array_equal(data.labels, raw.target)
    assert data.classes == tuple(map(str, raw.target_names))
    assert data.raw["image"].array.shape[1:] == (8, 8, 1)
    train = raw.images[data.splits.train] / 16
    assert (data.inputs[0].mean or ())[0] == pytest.approx(train.mean(), abs=1e-6)
    assert (data.inputs[0].std or ())[0] == pytest.approx(train.std(), abs=1e-6)
    normal = data.batch(data.splits.train)["image"]
    assert normal.shape == (len(data.splits.train), 1, 8, 8)
    assert normal.dtype == np.float32
    assert abs(normal.mean()) < 1e-4
    assert normal.std() == pytest.approx(1, abs=1e-4)


def test_the_digest_names_the_data_and_the_split(tmp_path: Path) -> None:
    first, second = digits_data(tmp_path / "a"), digits_data(tmp_path / "b")
    assert first.digest == second.digest
    assert digits_data(tmp_path / "a", Recipe(seed=1)).digest != first.digest


def test_a_size_the_source_does_not_have_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image_size is 16, but digits has images of 8"):
        digits_data(tmp_path, Recipe(data=Data(image_size=16)))


def test_statistics_of_a_flat_channel_do_not_divide_by_zero() -> None:
    images = np.zeros((3, 2, 2, 2), np.uint8)
    images[..., 1] = [[[0, 255], [255, 0]]]
    assert image_statistics(images, np.arange(3), 255) == ((0.0, 0.5), (1.0, 0.5))
