"""Calibrate a device that is at hand: measure small models on it, and refit what its operators cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.benchmark.measurements import DeviceBenchmark, Measurement
from edgekd.benchmark.on_device import Protocol, benchmark_files
from edgekd.benchmark.transports import Transport
from edgekd.devices.calibration_fit import KeyFit, fit_key
from edgekd.devices.calibration_models import CalibrationFile, Format, calibration_files
from edgekd.devices.coefficients import DeviceCoefficients, FittedKey, read_device, write_device
from edgekd.devices.kernels import Kernel, kernels_of
from edgekd.devices.latency_table import Key, family_of
from edgekd.devices.profiles import Profile, user_file
from edgekd.errors import DeviceError, UsageError
from edgekd.inspect.inspection import inspect_file
from edgekd.progress import Listener, Silent

SHORT = Protocol(
    runs=12, seconds=0.3, blocks=3, warmup_runs=3, warmup_s=0.1, turn_s=0.1, canary_s=0.3, idle_s=0.0, most_s=20.0
)  # fmt: skip
"""A few minutes for all models. Blocks are minutes apart, so that what else runs for a while is seen by one of them."""
FEWEST_MODELS = 3
_STEADY = 0.05
_MOST_SPREAD = 0.25
_RUNTIMES: dict[str, tuple[str, str, Format]] = {
    "onnxruntime": ("ONNX Runtime", "onnxruntime", "onnx"), "litert": ("LiteRT", "litert xnnpack", "tflite"),
}  # fmt: skip
"""For people, as measurements are keyed, and what it takes; of runtimes that compute on the CPU."""


@dataclass(frozen=True)
class CalibratedKey:
    """What became of one runtime, precision and number of threads.

    Attributes:
        runtime, precision, threads: Which.
        fit: Coefficients and errors.
        models: How many models it stands on.
        spread: By how much blocks of the same file disagree, the median over files, 0.1 for 10 %.
    """

    runtime: str
    precision: str
    threads: int
    fit: KeyFit
    models: int
    spread: float

    def text(self) -> str:
        """Return how far the error fell, as a sentence."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        before = "nothing was predicted" if self.fit.before is None else f"predictions were off by {self.fit.before:.0%}"
        how = {"coefficients": "", "factor": ", by one factor"}[self.fit.method]
        return (
            f"{_RUNTIMES[self.runtime][0]} {self.precision}, {threads}: {before}, are off by {self.fit.after:.0%} "
            f"(leave-one-out over {self.models} models{how})"
        )


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Attributes:
        profile: Id of the device.
        device: What it says it is.
        path: Where the coefficients are kept.
        keys: By runtime, precision and number of threads.
        left_out: Files that did not run or could not be measured, and why.
        load: Load average of the device at the beginning, where it tells.
    """

    profile: str
    device: str
    path: Path
    keys: tuple[CalibratedKey, ...]
    left_out: tuple[str, ...] = ()
    load: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, without the coefficients."""
        return {
            "profile": self.profile, "device": self.device, "path": str(self.path), "load": self.load,
            "keys": [
                {"runtime": each.runtime, "precision": each.precision, "threads": each.threads, "models": each.models,
                 "method": each.fit.method, "error_before": each.fit.before, "error_after": each.fit.after,
                 "error_of_one_factor": each.fit.factor_error, "spread": each.spread} for each in self.keys
            ],
            "left_out": list(self.left_out),
        }  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A measured calibration file.

    Attributes:
        file: Which.
        threads: Of the runtime.
        ms: What it takes when nothing else runs, see :func:`undisturbed`.
        spread: By how much the two best blocks disagree, 0.1 for 10 %.
        kernels: Of its network.
    """

    file: CalibrationFile
    threads: int
    ms: float
    spread: float
    kernels: tuple[Kernel, ...] = field(repr=False)


def calibrate(
    profile: Profile, transport: Transport, *, threads: Sequence[int] = (), out: Path | None = None,
    protocol: Protocol = SHORT, python: str = "python3", files: Sequence[CalibrationFile] | None = None,
    listener: Listener | None = None,
) -> Calibration:  # fmt: skip
    """Measure the calibration models on a device, and keep what its operators cost.

    Args:
        profile: The device.
        transport: The way to it.
        threads: Settings to calibrate; none: those of the profile.
        out: File of coefficients to write; ``None``: the user's own, which predictions use from then on. What it has of other
            runtimes and threads stays.
        protocol: How much is measured.
        python: Python on the device.
        files: What is measured; ``None``: all models that the runtimes of the device take.
        listener: Is told how far it is.

    Raises:
        UsageError: No runtime of the device computes on its CPU, or ``out`` is a file of something else.
        DeviceError: The device cannot be reached, lacks what is needed, died, or is too noisy.
        ExportError: A model could not be made.
    """
    runtimes = calibrated_runtimes(profile)
    path = out or user_file(profile.id)
    read_device(path)  # refused before anything is measured
    listener = listener or Silent()
    with transport:  # a device that cannot be reached is refused before models are made
        given = list(files or calibration_files([_RUNTIMES[each][2] for each in runtimes], listener=listener))
        result = benchmark_files(
            [each.path for each in given], profile, transport, threads=threads, protocol=protocol, runner="python",
            python=python, opened=True, listener=listener,
        )  # fmt: skip
    return keep(result, given, profile, path)


def keep(result: DeviceBenchmark, files: Sequence[CalibrationFile], profile: Profile, path: Path) -> Calibration:
    """Fit what was measured, and write it to a file of coefficients; what that has of other settings stays.

    Args:
        result: Of measuring ``files``, and maybe of others, which are left out.
        files: Calibration models.
        profile: The device.
        path: The file of coefficients.

    Raises:
        UsageError: ``path`` is a file of something else.
        DeviceError: The device was too noisy, or too few models ran.
    """
    kept, runtimes = read_device(path), calibrated_runtimes(profile)
    samples, left_out = samples_of(result, files)
    device = device_name(result)
    keys = fitted_keys(samples, profile, runtimes)
    if not keys:
        raise DeviceError(
            f"{result.via}: fewer than {FEWEST_MODELS} models could be measured", left_out[0] if left_out else None
        )  # fmt: skip
    today = date.today().isoformat()
    found = [as_fitted(each, profile, device, result, today) for each in keys]
    fresh = {(family_of(each.key), each.key.thread_count) for each in found}
    others = [each for each in kept.fitted if (family_of(each.key), each.key.thread_count) not in fresh]
    write_device(path, profile.id, DeviceCoefficients((*found, *others), kept.nearest))
    told = result.environment.get("load")
    load = told[0] if isinstance(told, list) and told and isinstance(told[0], int | float) else None
    return Calibration(profile.id, device, path, tuple(keys), tuple(left_out), load)


def calibrated_runtimes(profile: Profile) -> tuple[str, ...]:
    """Return the runtimes of a device whose CPU latency can be calibrated.

    Raises:
        UsageError: There are none.
    """
    found = tuple(each for each in _RUNTIMES if each in profile.runtimes.values())
    if not found:
        raise UsageError(
            f"{profile.name} runs neither ONNX Runtime nor LiteRT on its CPU, and nothing else is calibrated",
            "measure your files instead: edgekd benchmark FILE --on " + profile.id,
        )
    return found


def samples_of(result: DeviceBenchmark, files: Sequence[CalibrationFile]) -> tuple[list[Sample], list[str]]:
    """Return what was measured of each file, and in words what was not.

    Raises:
        DeviceError: The blocks of most files disagree: the device is too noisy.
    """
    by_path = {each.path: each for each in files}
    measured = [each for each in result.measurements if each.path in by_path]
    kernels = {path: kernels_of(inspect_file(path).fused) for path in {each.path for each in measured}}
    found = [Sample(by_path[each.path], each.threads, *undisturbed(each), kernels[each.path]) for each in measured]
    left_out = [f"{name}, {count} threads: {why}" for name, count, why in result.failed]
    disagree = float(np.median([each.spread for each in found])) if found else 0.0
    if disagree > _MOST_SPREAD:
        raise DeviceError(
            f"{result.via} is too noisy to calibrate: the same file differs by {disagree:.0%} from block to block",
            "stop what else runs there, cool it, and try again",
        )
    return found, left_out


def undisturbed(measured: Measurement) -> tuple[float, float]:
    """Return what a file takes in ms when nothing else runs, and by how much the two best blocks disagree about it.

    It is the 10th percentile of the best block: what else runs only makes times longer, for a while or all the time.
    """
    blocks = sorted({each.block for each in measured.turns})
    low = sorted(
        float(np.percentile(np.concatenate([each.ms for each in measured.turns if each.block == block]), 10))
        for block in blocks
    )  # fmt: skip
    return low[0], low[1] / low[0] - 1 if len(low) > 1 else 0.0


def fitted_keys(samples: Sequence[Sample], profile: Profile, runtimes: Sequence[str]) -> list[CalibratedKey]:
    """Fit each runtime, precision and number of threads that enough models were measured with."""
    found = []
    for runtime in runtimes:
        kind = _RUNTIMES[runtime][2]
        for precision in ("fp32", "int8"):
            for threads in sorted({each.threads for each in samples}):
                own = [
                    each for each in samples
                    if (each.file.format, each.file.precision, each.threads) == (kind, precision, threads)
                ]  # fmt: skip
                if len(own) < FEWEST_MODELS:
                    continue
                measured = [(each.file.model, each.kernels, each.ms, _weight(each)) for each in own]
                key = Key(profile.id, _RUNTIMES[runtime][1], "cpu", str(threads), precision)
                fit = fit_key(key, measured, profile, runtime)
                spread = float(np.median([each.spread for each in own]))
                found.append(CalibratedKey(runtime, precision, threads, fit, len(own), spread))
    return found


def _weight(sample: Sample) -> float:
    """Return 1, or less for an unsteady sample."""
    return min(1.0, (_STEADY / max(sample.spread, 1e-9)) ** 2)


def as_fitted(each: CalibratedKey, profile: Profile, device: str, result: DeviceBenchmark, today: str) -> FittedKey:
    """Return a key as the file of coefficients has it."""
    versions = result.environment.get("runtimes")
    module = {"onnxruntime": ("onnxruntime",), "litert": ("ai_edge_litert", "tflite_runtime", "tensorflow")}[each.runtime]
    told = [_plain(f"{name} {versions[name]}") for name in module if isinstance(versions, dict) and name in versions]
    key = replace(each.fit.key, setup="; ".join([device, *told[:1]]))
    return FittedKey(
        key, each.fit.coefficients, each.fit.deviations, each.fit.noise, each.fit.reach, each.fit.after, each.models,
        each.models, (f"edgekd devices calibrate {profile.id}",), today, each.fit.counting,
    )  # fmt: skip


def device_name(result: DeviceBenchmark) -> str:
    """Return what a device says it is."""
    told = [result.environment.get(each) for each in ("model", "cpu", "machine")]
    name = next((each for each in told if isinstance(each, str) and each.strip("\0 ")), result.target)
    return _plain(name)


def _plain(text: str) -> str:
    """Return what a device told without anything that a terminal would act on."""
    return "".join(each for each in text if each.isprintable())[:80]
