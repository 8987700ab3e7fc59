"""Predict the latency of a model file on a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.devices.coefficients import device_coefficients
from edgekd.devices.features import features_of
from edgekd.devices.kernels import Kernel, kernels_of, unknown_operators
from edgekd.devices.latency import Prediction, predict, runtime_of_format
from edgekd.devices.model_table import published_models
from edgekd.devices.profiles import Profile
from edgekd.inspect.inspection import Inspection, inspect_file


@dataclass(frozen=True)
class AcceleratorLatency:
    """A measured network that resembles a file, on an accelerator that is not predicted from operations.

    Attributes:
        where: Runtime and precision it was measured with.
        model, input: The measured network.
        ms: What it took.
    """

    where: str
    model: str
    input: str
    ms: float


@dataclass(frozen=True)
class FilePrediction:
    """What a file is expected to take on a device.

    Attributes:
        path: The file.
        device: Id of the profile.
        runtime, threads, precision: What was predicted.
        prediction: ``None``: nothing like it was measured.
        accelerators: Nearest measured networks on NPUs and the like; not predictions.
        unknown: Names of operators whose cost the file does not tell: the prediction is too low with any.
    """

    path: Path
    device: str
    runtime: str
    threads: int
    precision: str
    prediction: Prediction | None
    accelerators: tuple[AcceleratorLatency, ...]
    unknown: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "path": str(self.path), "device": self.device, "runtime": self.runtime, "threads": self.threads,
            "precision": self.precision, "prediction": self.prediction.to_json() if self.prediction else None,
            "accelerators": [vars(each) for each in self.accelerators], "unknown_operators": list(self.unknown),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """Return it as lines for people."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        setting = f"{self.path} on {self.device}, {self.runtime}, {self.precision}, {threads}"
        found = self.prediction
        if found is None:
            lines = [f"{setting}: not predicted, nothing like it was measured"]
        else:
            lines = [
                f"{setting}: {_ms(found.p50_ms)}, 9 of 10 between {_ms(found.low_ms)} and {_ms(found.high_ms)}",
                f"  {found.basis}: {found.from_what}",
            ]
        if self.unknown:
            lines.append(f"  too low: the cost of {len(self.unknown)} operators is unknown, {self.unknown[0]} the first")
        lines += [
            f"  {each.where}: not predicted; the nearest measured network, {each.model} at {each.input}, took {_ms(each.ms)}"
            for each in self.accelerators
        ]
        return lines


def predict_file(path: Path, profile: Profile, runtime: str | None = None, threads: int | None = None) -> FilePrediction:
    """Predict the latency of an ONNX or TFLite file.

    Args:
        path: The file; it is read in a child process.
        profile: The device.
        runtime: ``None``: the one that the profile takes for the format.
        threads: ``None``: the largest number that the profile measures with.

    Raises:
        UsageError: As of :func:`~edgekd.devices.latency.predict`, and of inspection.
        ModelError: The file is broken.
    """
    return predict_inspection(inspect_file(path), profile, runtime, threads)


def predict_inspection(
    inspection: Inspection, profile: Profile, runtime: str | None = None, threads: int | None = None
) -> FilePrediction:  # fmt: skip
    """Predict the latency of a file that is inspected already; arguments as of :func:`predict_file`."""
    from edgekd.devices.profiles import fast_clusters, usable_cores

    chosen = runtime or runtime_of_format(profile, inspection.graph.format)
    if threads is None:
        cores = sum(each.count for each in fast_clusters(profile)) or usable_cores()
        threads = max((cores if each == "all" else each) for each in profile.threads)
    kernels = kernels_of(inspection.fused)
    precision = precision_of(inspection)
    return FilePrediction(
        inspection.path, profile.id, chosen, threads, precision, predict(kernels, profile, chosen, threads, precision),
        nearest_on_accelerators(kernels, profile, precision), unknown_operators(inspection.fused),
    )  # fmt: skip


def precision_of(inspection: Inspection) -> str:
    """Return what a CPU computes with: ``int8`` where most multiply-accumulates meet integers, else ``fp32``.

    Weights of 16 bits are widened before they are used, so they do not count.
    """
    graph = inspection.fused
    integers = total = 0
    for operator in graph.operators:
        read = [graph.tensors[name] for name in operator.inputs if name and graph.tensors[name].role == "activation"]
        if operator.macs and read:
            total += operator.macs
            integers += operator.macs if all("int8" in each.dtype for each in read) else 0
    return "int8" if 2 * integers > total > 0 else "fp32"


def nearest_on_accelerators(kernels: tuple[Kernel, ...], profile: Profile, precision: str) -> tuple[AcceleratorLatency, ...]:
    """Return, for each runtime of an accelerator, the measured network that computes and moves the most alike.

    Floating-point files meet those measured in half precision, which accelerators compute with.
    """
    wanted = ("int8",) if precision == "int8" else ("fp16", "fp32")
    own = _shape(features_of(kernels))
    known = published_models()
    found = []
    for each in device_coefficients(profile.id).nearest:
        if each.precision in wanted and each.latencies:
            name, size, milliseconds = min(
                each.latencies, key=lambda row: float(np.abs(_shape(known[row[0], row[1]]) - own).sum())
            )  # fmt: skip
            found.append(AcceleratorLatency(f"{each.delegate} by {each.runtime}, {each.precision}", name, size, milliseconds))
    return tuple(found)


def _shape(features: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return features as logarithms, for distances; a thousand of anything is little."""
    return np.log1p(features / 1000)


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if value < 1000 else f"{value:.0f} ms"
