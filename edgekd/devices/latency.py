"""Predict how long a network takes on a device, with an interval, and say from which measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp
from typing import Any, Literal

import numpy as np

from edgekd.devices.coefficients import (
    DeviceCoefficients,
    FittedKey,
    device_coefficients,
    shared_coefficients,
    shipped_coefficients,
)
from edgekd.devices.features import PLAIN, Counting, features_of, kernel_features
from edgekd.devices.fitting import Array, design, log_deviation, log_latency
from edgekd.devices.kernels import Kernel
from edgekd.devices.latency_table import Family, family_of
from edgekd.devices.profiles import Profile, fast_clusters
from edgekd.devices.published_devices import Speed
from edgekd.devices.transfer import ALL_THREADS, scaled
from edgekd.errors import UsageError
from edgekd.names import did_you_mean

Basis = Literal["fitted", "transferred", "specification only"]
PRECISIONS = ("fp32", "fp16", "int8")
RUNTIMES = ("litert", "tflite", "onnxruntime", "ncnn", "armnn", "paddle-lite", "tengine", "mnn", "tnn")
"""What can be asked for; on CPUs."""
_ALIKE: dict[str, tuple[str, ...]] = {
    "litert": ("tflite xnnpack", "tflite"), "tflite": ("tflite", "tflite xnnpack"), "onnxruntime": (),
}  # fmt: skip
"""Families of measurements that tell of a runtime. ONNX Runtime has none of its CPU kernels: those of the nearest are taken."""
_NEAREST = ("tflite xnnpack", "tflite", "ncnn", "armnn", "paddle-lite", "tengine", "mnn", "tnn")
"""Families that stand in for a runtime without measurements, in this order."""
_NORMAL_90 = 1.645


@dataclass(frozen=True)
class LayerLatency:
    """A kernel's part of the latency.

    Attributes:
        name, kind: As of :class:`~edgekd.devices.kernels.Kernel`.
        macs: Multiply-accumulates.
        ms: Its share.
    """

    name: str
    kind: str
    macs: int
    ms: float


@dataclass(frozen=True)
class Prediction:
    """A predicted latency.

    Attributes:
        p50_ms: The prediction.
        low_ms, high_ms: Nine of ten measurements are expected between these.
        basis: ``fitted``: on measurements of this device; ``transferred``: of devices with the same cores, or of another
            runtime or number of threads on this one; ``specification only``: rough, from clocks and what cores do in a cycle.
        from_what: Those measurements, in words.
        layers: In order of execution.
    """

    p50_ms: float
    low_ms: float
    high_ms: float
    basis: Basis
    from_what: str
    layers: tuple[LayerLatency, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self) | {"layers": [asdict(each) for each in self.layers]}


@dataclass(frozen=True)
class _Source:
    """Coefficients that serve a request.

    Attributes:
        coefficients: Logarithms.
        reach: Logarithm that the interval reaches to each side.
        basis, words: As of Prediction.
        runtime: Family of runtimes that was measured.
        counting: How the work is counted that coefficients are for.
    """

    coefficients: Array
    reach: float
    basis: Basis
    words: str
    runtime: str
    counting: Counting = PLAIN


def predict(kernels: Sequence[Kernel], profile: Profile, runtime: str, threads: int, precision: str) -> Prediction | None:
    """Predict the latency of a network on the CPU of a device.

    Args:
        kernels: Of the network.
        profile: The device.
        runtime: One of :data:`RUNTIMES`.
        threads: Number of threads, from 1.
        precision: One of :data:`PRECISIONS`.

    Returns:
        The prediction; ``None``: nothing like it was measured, and the profile does not tell its cores.

    Raises:
        UsageError: A runtime, number of threads or precision that there is not, or a network without kernels.
    """
    _check(kernels, runtime, threads, precision)
    source = _source(kernels, profile, device_coefficients(profile.id), runtime, threads, precision)
    if source is None:
        return None
    seen = design(features_of(kernels, source.counting), source.runtime)
    milliseconds = exp(float(log_latency(seen, source.coefficients)))
    return Prediction(
        milliseconds, milliseconds * exp(-source.reach), milliseconds * exp(source.reach), source.basis, source.words,
        _layers(kernels, source, milliseconds),
    )  # fmt: skip


def published_costs(
    kernels: Sequence[Kernel], profile: Profile, runtime: str, threads: int, precision: str
) -> tuple[Array, str] | None:  # fmt: skip
    """Return logarithms of the coefficients that serve a request without the user's calibration, and the family they are of.

    Arguments as of :func:`predict`.
    """
    source = _source(kernels, profile, shipped_coefficients(profile.id), runtime, threads, precision)
    return None if source is None else (source.coefficients, source.runtime)


def runtimes_alike(runtime: str) -> tuple[str, ...]:
    """Return the families of measurements that tell of a runtime, the best first."""
    return _ALIKE.get(runtime) or (runtime,)


def nearest_families(runtime: str) -> tuple[str, ...]:
    """Return the families that tell of a runtime, and then those that stand in for it."""
    own = runtimes_alike(runtime)
    return (*own, *(each for each in _NEAREST if each not in own))


def _check(kernels: Sequence[Kernel], runtime: str, threads: int, precision: str) -> None:
    if runtime not in RUNTIMES:
        raise UsageError(
            f"no runtime '{runtime}' to predict, allowed: {', '.join(RUNTIMES)}{did_you_mean(runtime, RUNTIMES)}"
        )  # fmt: skip
    if precision not in PRECISIONS:
        raise UsageError(f"no precision '{precision}', allowed: {', '.join(PRECISIONS)}{did_you_mean(precision, PRECISIONS)}")
    if threads < 1:
        raise UsageError(f"threads is {threads}, must be 1 or more")
    if not kernels:
        raise UsageError("a network without operators takes no time", "predict a model file that computes something")


def _source(
    kernels: Sequence[Kernel], profile: Profile, device: DeviceCoefficients, runtime: str, threads: int, precision: str
) -> _Source | None:  # fmt: skip
    """Return the best that is known: of this runtime, or else of the nearest; of this device, or else of others."""
    own = runtimes_alike(runtime)
    found = _from_device(kernels, device, own, threads, precision) or _from_others(profile, own, threads, precision)
    if found is not None:
        return found
    nearest = tuple(each for each in _NEAREST if each not in own)
    found = _from_device(kernels, device, nearest, threads, precision) or _from_others(profile, nearest, threads, precision)
    if found is None:
        return None
    reach = float(np.hypot(found.reach, _NORMAL_90 * shared_coefficients().runtime_change))
    words = f"no measurement of {runtime} is published for it; the nearest: {found.words}"
    basis: Basis = "transferred" if found.basis == "fitted" else found.basis
    return _Source(found.coefficients, reach, basis, words, found.runtime, found.counting)


def _from_device(
    kernels: Sequence[Kernel], device: DeviceCoefficients, runtimes: tuple[str, ...], threads: int, precision: str
) -> _Source | None:  # fmt: skip
    """Return what was fitted on this device: with as many threads, else scaled from another number of them."""
    fitted = [
        each for each in device.fitted
        if family_of(each.key) in {Family(name, "cpu", precision, several) for name in runtimes for several in (True, False)}
    ]  # fmt: skip
    if not fitted:
        return None
    features = features_of(kernels)

    def distance(each: FittedKey) -> tuple[float, bool, int, int, float]:
        count = each.key.thread_count or ALL_THREADS
        rank = runtimes.index(family_of(each.key).runtime)
        return (
            abs(np.log(count / threads)),
            not each.calibrated,
            rank,
            -each.rows,
            float(log_latency(features, each.coefficients)),
        )

    best = min(fitted, key=distance)
    family = family_of(best.key)
    seen = design(features_of(kernels, best.counting), family.runtime)
    deviation = np.hypot(log_deviation(seen, best.coefficients, best.deviations), best.noise)
    reach = float(best.reach * deviation)
    key = best.key
    words = f"{best.rows} rows of {best.models} models on {key.device}"
    if best.calibrated:
        words = f"calibrated on this device on {best.calibrated} over {best.models} models"
    words += f" with {_runtime_words(key.runtime, key.delegate)}"
    words += f", {_threads_words(key.threads)}" + (f" ({key.setup})" if key.setup else "")
    if family.several == (threads > 1):
        return _Source(best.coefficients, reach, "fitted", words, family.runtime, best.counting)
    shared = shared_coefficients()
    gain = shared.threads_gain if family.several else -shared.threads_gain
    reach = float(np.hypot(reach, _NORMAL_90 * shared.threads_change))
    words += f", scaled to {threads} thread{'s' if threads > 1 else ''}"
    moved = best.coefficients + gain
    return _Source(moved, reach, "transferred", words, family.runtime, best.counting)


def _from_others(profile: Profile, runtimes: tuple[str, ...], threads: int, precision: str) -> _Source | None:
    """Return what other devices tell: those with the same cores first."""
    clusters = fast_clusters(profile)
    if not clusters:
        return None
    speed = Speed(clusters[0].core, clusters[0].ghz)
    shared = shared_coefficients()
    rough: _Source | None = None
    for name in runtimes:
        family = Family(name, "cpu", precision, threads > 1)
        given = scaled(shared.scaling, family, speed, threads)
        if given is None:
            continue
        coefficients, same_cores = given
        if same_cores:
            count = shared.scaling.counts[family, speed.core]
            words = f"{count} other device{'s' if count > 1 else ''} with {speed.core} cores and {name}, scaled by clock"
            return _Source(coefficients, shared.transferred[family], "transferred", words, name)
        if rough is None:
            words = f"clock and peak of {speed.core} cores, and the efficiency of {name} on other devices; rough"
            rough = _Source(coefficients, shared.specification[family], "specification only", words, name)
    return rough


def _layers(kernels: Sequence[Kernel], source: _Source, total: float) -> tuple[LayerLatency, ...]:
    parts = [
        float((design(kernel_features(each, source.counting), source.runtime) * np.exp(source.coefficients)).sum())
        for each in kernels
    ]  # fmt: skip
    rest = total - sum(parts)  # of the input, which is no kernel's
    parts[0] += max(0.0, rest)
    return tuple(LayerLatency(each.name, each.kind, each.macs, part) for each, part in zip(kernels, parts, strict=True))


def _runtime_words(runtime: str, delegate: str) -> str:
    return runtime if delegate in ("", "cpu") else f"{runtime} ({delegate})"


def _threads_words(threads: str) -> str:
    if not threads.isdigit():
        return "all fast cores"
    return "1 thread" if threads == "1" else f"{threads} threads"


def runtime_of_format(profile: Profile, format_name: str) -> str:
    """Return the runtime that a profile takes for files of a format, if its CPU latency can be predicted.

    Raises:
        UsageError: It takes no such files, or its runtime computes elsewhere.
    """
    runtime = profile.runtimes.get(format_name)
    if runtime is None:
        raise UsageError(f"{profile.name} takes no {format_name} files, only {', '.join(sorted(profile.runtimes))}")
    if runtime not in RUNTIMES:
        raise UsageError(
            f"{runtime} on {profile.name} is not predicted: it does not run on the CPU", "name a runtime with --runtime"
        )
    return runtime
