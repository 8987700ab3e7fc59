"""Feeding by description, and both runtimes on the same network."""

from typing import Any

import numpy as np
import pytest

from edgekd.report.report import Report
from edgekd.runtimes import feed, open_artifact, real_values

IMAGE: dict[str, Any] = {
    "value_range": [0.0, 1.0], "mean": [0.5, 0.25, 0.0], "std": [0.5, 0.25, 2.0], "layout": "NCHW",
    "meaning": "image", "scale": None, "zero_point": None,
}  # fmt: skip


def _pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), np.uint8)


def test_feed_is_range_then_normalisation_then_layout() -> None:
    pixels = _pixels()
    fed = feed(pixels, 255, IMAGE)
    assert fed.shape == (4, 3, 6, 5)
    assert fed.dtype == np.float32
    for channel in range(3):
        expected = (pixels[..., channel] / 255 - IMAGE["mean"][channel]) / IMAGE["std"][channel]
        np.testing.assert_allclose(fed[:, channel], expected, rtol=1e-5, atol=1e-6)
    wide = feed(pixels, 255, IMAGE | {"value_range": [0, 255], "mean": [0.0] * 3, "std": [1.0] * 3, "layout": "NHWC"})
    np.testing.assert_allclose(wide, pixels, rtol=1e-5)


def test_integer_inputs_are_rounded_and_clipped() -> None:
    described = IMAGE | {"layout": "NHWC", "scale": 0.01, "zero_point": -3, "dtype": "int8"}
    fed = feed(_pixels(), 255, described)
    real = feed(_pixels(), 255, IMAGE | {"layout": "NHWC"})
    assert fed.dtype == np.int8
    assert fed.min() == -103
    np.testing.assert_array_equal(fed, np.clip(np.round(real / np.float32(0.01) - 3), -128, 127).astype(np.int8))
    np.testing.assert_allclose(real_values(fed, described)[fed < 127], real[fed < 127], atol=0.0051)


def test_sound_is_scaled_about_silence_and_tokens_are_left_alone() -> None:
    sound = np.asarray([[-32768, 0, 16384]], np.int16)
    described = {"meaning": "waveform", "value_range": [-1.0, 1.0], "layout": "NC", "scale": None}
    assert feed(sound, 32768, described).tolist() == [[-1.0, 0.0, 0.5]]
    tokens = feed(np.asarray([[7, 0]], np.int32), None, {"meaning": "tokens", "dtype": "int64"})
    assert tokens.dtype == np.dtype(np.int64)
    assert tokens.tolist() == [[7, 0]]


@pytest.mark.parametrize("threads", [1, 2, None])
def test_both_runtimes_give_the_same_outputs(finished: Report, threads: int | None) -> None:
    images = np.random.default_rng(1).normal(size=(5, 1, 8, 8)).astype(np.float32)
    onnx, inputs, _ = open_artifact(str(finished.path("onnx-fp32")), "onnx", threads)
    tflite, _, _ = open_artifact(str(finished.path("tflite-fp32")), "tflite", threads)
    assert inputs[0]["name"] == "image"
    left = onnx({"image": images})["logits"]
    right = tflite({"image": np.ascontiguousarray(images.transpose(0, 2, 3, 1))})["logits"]
    assert left.shape == right.shape == (5, 10)
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)
