"""Extreme inputs: legal, finite, all different where there is room, and of every kind of data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd.data.dataset import Dataset, Raw
from edgekd.extremes import COUNT, extreme_samples
from edgekd.models.tensors import TensorSpec, image_input
from tests.digits_data import digits_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return digits_data(tmp_path_factory.mktemp("digits"))


def _of(data: Dataset, folder: Path, specs: tuple[TensorSpec, ...], raw: dict[str, Raw]) -> Dataset:
    return extreme_samples(replace(data, inputs=specs, raw=raw), folder)


def test_images_reach_both_ends_and_the_network_gets_them_normalised(data: Dataset, tmp_path: Path) -> None:
    found = extreme_samples(data, tmp_path)
    given, raw = data.raw["image"], found.raw["image"]
    assert raw.array.shape == (COUNT, *given.array.shape[1:])
    assert raw.array.dtype == given.array.dtype
    values = np.asarray(raw.array[np.arange(COUNT)], np.float64)
    assert not values[0].any()
    assert (values[1] == given.full_scale).all()
    assert values.min() == 0
    assert values.max() == given.full_scale
    assert len(np.unique(values.reshape(COUNT, -1), axis=0)) >= COUNT - 2
    (spec,) = data.inputs
    assert spec.mean is not None and spec.std is not None
    batch = found.batch(np.arange(COUNT))["image"]
    assert batch.shape == (COUNT, 1, 8, 8)
    assert np.isfinite(batch).all()
    np.testing.assert_allclose(batch[1], (1 - spec.mean[0]) / spec.std[0], rtol=1e-5)
    again = extreme_samples(data, tmp_path)
    np.testing.assert_array_equal(again.raw["image"].array[np.arange(COUNT)], raw.array[np.arange(COUNT)])
    np.testing.assert_array_equal(np.load(raw.path), raw.array[np.arange(COUNT)])


def test_8_bit_colours_have_impulses_boards_and_single_channels(data: Dataset, tmp_path: Path) -> None:
    array = np.zeros((10, 6, 5, 3), np.uint8)
    found = _of(data, tmp_path, (image_input((6, 5, 3), (0.5,) * 3, (0.5,) * 3),), {"image": Raw(tmp_path, array, 255)})
    values = found.raw["image"].array[np.arange(COUNT)]
    assert values.dtype == np.uint8
    lit = (values == 255).all(-1).sum((1, 2))
    assert 1 in lit and 29 in lit  # impulses in black and in white
    assert any((each[..., 0] == 255).all() and not each[..., 1:].any() for each in values)
    assert any((each[::2, ::2] == 0).all() and (each[::2, 1::2] == 255).all() for each in values)


def test_sounds_use_the_whole_signed_range(data: Dataset, tmp_path: Path) -> None:
    spec = TensorSpec("waveform", "float32", (50,), "NC", "waveform", (-1.0, 1.0), sample_rate=8000)
    found = _of(data, tmp_path, (spec,), {"waveform": Raw(tmp_path, np.zeros((3, 50), np.int16), 32768)})
    values = found.raw["waveform"].array[np.arange(COUNT)]
    assert (values.min(), values.max(), values.dtype.name) == (-32768, 32767, "int16")


def test_features_stay_within_what_training_saw(data: Dataset, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal([0, 100, -5], [1, 10, 0.1], (len(data.labels), 3)).astype(np.float32)
    spec = TensorSpec("features", "float32", (3,), "NC", "features", None, (0.0,) * 3, (1.0,) * 3)
    found = _of(data, tmp_path, (spec,), {"features": Raw(tmp_path, rows, None)})
    values = found.raw["features"].array[np.arange(COUNT)]
    train = rows[data.splits.train]
    np.testing.assert_allclose(values.min(0), train.min(0))
    np.testing.assert_allclose(values.max(0), train.max(0))


def test_tokens_are_in_the_vocabulary_and_never_all_masked(data: Dataset, tmp_path: Path) -> None:
    tokens = TensorSpec("input_ids", "int32", (16,), "NC", "tokens", vocabulary=300)
    mask = TensorSpec("attention_mask", "int32", (16,), "NC", "mask")
    zeros = np.zeros((4, 16), np.int32)
    raw = {"input_ids": Raw(tmp_path, zeros, None), "attention_mask": Raw(tmp_path, zeros, None)}
    found = _of(data, tmp_path, (tokens, mask), raw)
    ids, masks = (found.raw[name].array[np.arange(COUNT)] for name in ("input_ids", "attention_mask"))
    assert (ids.min(), ids.max()) == (0, 299)
    assert set(masks.sum(1)) == {8, 16}
