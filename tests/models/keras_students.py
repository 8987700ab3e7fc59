"""Small Keras networks for the digits, as files, and what Keras itself gives. This runs in a child process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tests.models.disguises import digits


def _network(keras: Any) -> Any:
    layers = keras.layers
    pixels = keras.Input((8, 8, 1), name="pixels")
    hidden = layers.Conv2D(16, 3, padding="same", use_bias=False)(layers.Rescaling(1 / 255)(pixels))
    hidden = layers.ReLU()(layers.BatchNormalization()(hidden))
    beside = layers.SeparableConv2D(16, 3, padding="same", activation="relu")(hidden)
    hidden = layers.MaxPooling2D()(layers.Add()([hidden, beside]))
    hidden = layers.Conv2D(24, 3, strides=2, padding="same", activation="relu")(hidden)
    hidden = layers.Dropout(0.1)(layers.Flatten()(hidden))
    scores = layers.Dense(10, activation="softmax")(hidden)
    return keras.Model(pixels, scores, name="small")


def train(path: str) -> dict[str, Any]:
    """Train a network that takes 0..255 and gives probabilities, on the first 1,200 digits, in TensorFlow; save it with its
    own answers, and beside it networks of other shapes."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    keras.utils.set_random_seed(0)
    images, labels = digits()
    rows = np.float32(255) * images.transpose(0, 2, 3, 1)
    model = _network(keras)
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy())
    model.fit(rows[:1200], labels[:1200], batch_size=64, epochs=12, verbose=0)
    model.save(path)
    answers = model.predict(rows, verbose=0, batch_size=256)
    np.savez(Path(path).with_suffix(".npz"), answers=answers)
    _save_odd(keras, Path(path).parent)
    return {"accuracy": float((answers.argmax(1) == labels)[1200:].mean())}


def _save_odd(keras: Any, out: Path) -> None:
    """Write networks that are no students, as of two outputs, and students that are fed otherwise, as with ``(8, 8)``."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    pixels = keras.Input((8, 8, 1))
    flat = layers.Flatten()(pixels)
    keras.Model(pixels, [layers.Dense(10)(flat), layers.Dense(10)(flat)]).save(out / "two.keras")
    inside = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10), layers.Softmax()])
    inside.save(out / "softmax_layer.keras")
    keras.Sequential([keras.Input((8, 8, 1)), inside]).save(out / "softmax_inside.keras")
    keras.Sequential([keras.Input((16, 16, 1)), layers.Flatten(), layers.Dense(10)]).save(out / "large.keras")
    keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(7)]).save(out / "seven.keras")
    keras.Sequential([keras.Input((8, 8)), layers.Flatten(), layers.Dense(10)]).save(out / "matrix.keras")
    keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)]).save(out / "plain.h5")
    keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)]).export(out / "saved", verbose=False)
    first = keras.Sequential([
        keras.Input((1, 8, 8)), layers.Permute((2, 3, 1)), layers.Conv2D(4, 3, activation="relu"), layers.Flatten(),
        layers.Dense(10),
    ])  # fmt: skip
    first.save(out / "channels_first.keras")
