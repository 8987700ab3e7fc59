"""Claim: both converters make the same TFLite file of a Keras student, as right and as fast as one another.

Trains a small residual network of Keras on the embedded digits, in TensorFlow. Its file becomes TFLite by LiteRT Torch, over
PyTorch, and by TensorFlow's own converter (export.tflite.converter: litert | tensorflow), and int8 of each by edgekd. Prints
for each file its size, operators, transposes, the largest difference to Keras as a share of the output range, top-1 on
digits that were not trained, and the median latency on one thread, the files taking turns in one process.

    python benchmarks/keras_converters.py              # about two minutes
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

TRAINED = 1_200


def main() -> None:
    """Make every file, and print what it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300, help="timed inferences of one sample, for each file")
    runs = parser.parse_args().runs
    from edgekd.safe.child import run_in_child

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "log"
        run_in_child("keras_converters:train", {"folder": name}, log=log)
        spec = run_in_child("keras_converters:describe", {"folder": name}, log=log)
        for converter, function in (
            ("litert", "edgekd.export.tflite:export_tflite"),
            ("tensorflow", "edgekd.export.tflite_tensorflow:export_tflite_tensorflow"),
        ):
            source, weights = folder / f"{converter} fp32.tflite", str(folder / "weights.safetensors")
            run_in_child(function, {"spec": spec, "weights": weights, "out": str(source)}, log=log)
            arguments = {
                "model": str(source), "calibration": f"{name}/samples.npz", "out": f"{name}/{converter} int8.tflite",
            }  # fmt: skip
            run_in_child("edgekd.quantize.tflite:quantize_tflite", arguments, log=log)
        measured = run_in_child("keras_converters:measure", {"folder": name, "runs": runs}, log=log, threads=1)
        print(f"{'':18}{'KiB':>8}{'operators':>11}{'transposes':>12}{'difference':>12}{'top-1':>9}{'p50, ms':>9}")
        for path in sorted(folder.glob("*.tflite"), key=lambda each: each.stem.split()[::-1]):
            from edgekd.inspect.inspection import inspect_file

            operators, found = inspect_file(path).operators, measured[path.name]
            print(
                f"{path.stem:18}{path.stat().st_size / 1024:8.1f}{operators.total():11}{operators['TRANSPOSE']:12}"
                f"{found['difference']:12.1e}{found['top1']:9.2%}{found['p50']:9.4f}"
            )


def _digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32), labels


def train(folder: str) -> None:
    """Train the network and save it, with its logits for the digits it has not seen. Runs in a child process."""
    from edgekd.models.keras_file import import_keras

    keras = import_keras("tensorflow")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    pixels = keras.Input((8, 8, 1))
    hidden = layers.Conv2D(32, 3, padding="same", use_bias=False)(pixels)
    for _ in range(3):
        beside = layers.ReLU()(layers.BatchNormalization()(hidden))
        beside = layers.SeparableConv2D(32, 3, padding="same", use_bias=False)(beside)
        beside = layers.Conv2D(32, 3, padding="same", use_bias=False)(layers.ReLU()(layers.BatchNormalization()(beside)))
        hidden = layers.Add()([hidden, beside])
    hidden = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(hidden)))
    model = keras.Model(pixels, layers.Dense(10)(hidden))
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images, labels = _digits()
    model.fit(images[:TRAINED], labels[:TRAINED], batch_size=64, epochs=15, verbose=0)
    model.save(Path(folder, "net.keras"))
    np.save(Path(folder, "logits.npy"), model.predict(images[TRAINED:], verbose=0))
    np.savez(Path(folder, "samples.npz"), image=images[:256].transpose(0, 3, 1, 2))


def describe(folder: str) -> dict[str, Any]:
    """Write the weights as edgekd keeps them, and return the student's spec. Runs in a child process."""
    from edgekd.models.spec import build, save_weights
    from edgekd.models.tensors import classifier, image_input

    spec = classifier(f"keras:{folder}/net.keras", (image_input((8, 8, 1), (0.0,), (1.0,)),), tuple(map(str, range(10))))
    save_weights(build(spec), Path(folder, "weights.safetensors"))
    return spec.to_json()


def measure(folder: str, runs: int) -> dict[str, dict[str, float]]:
    """Run every file on the digits that were not trained, and time them in turns. Runs in a child process."""
    from edgekd.runtimes import open_tflite, real_values

    images, labels = (each[TRAINED:] for each in _digits())
    expected = np.load(Path(folder, "logits.npy"))
    opened, found = {}, {}
    for path in sorted(Path(folder).glob("*.tflite")):
        run, inputs, outputs = open_tflite(str(path), 1)
        fed = images
        if inputs[0]["scale"] is not None:
            fed = np.clip(np.round(images / inputs[0]["scale"]) + inputs[0]["zero_point"], -128, 127).astype(np.int8)
        logits = real_values(run({"image": fed})["logits"], outputs[0])
        difference = float(np.abs(logits - expected).max() / np.ptp(expected))
        found[path.name] = {"difference": difference, "top1": float((logits.argmax(1) == labels).mean())}
        opened[path.name] = run, {"image": np.ascontiguousarray(fed[:1])}
    times: dict[str, list[float]] = {name: [] for name in opened}
    for turn in range(runs + 20):
        for name, (run, sample) in opened.items():
            started = time.perf_counter()
            run(sample)
            if turn >= 20:
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: each | {"p50": statistics.median(times[name])} for name, each in found.items()}


if __name__ == "__main__":
    main()
