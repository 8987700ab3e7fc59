"""Files of fitted coefficients: ``devices/coefficients/*.toml``, as ``tools/fit_profiles.py`` writes them, and the user's own.

The user's are what ``edgekd devices calibrate`` found on a device at hand; they go before the shipped ones.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.devices.features import FEATURES, PLAIN, Counting
from edgekd.devices.fitting import Array
from edgekd.devices.latency_table import Family, Key, family_of
from edgekd.devices.profiles import profile_folder, user_file
from edgekd.devices.transfer import Scaling
from edgekd.errors import UsageError
from edgekd.safe.files import write_text

SCHEMA = 1


@dataclass(frozen=True)
class FittedKey:
    """Coefficients of one device, runtime, thread and precision setting, and how good they are.

    Attributes:
        key: What was measured.
        coefficients: Logarithms, of ms for one unit, in the order of FEATURES.
        deviations: Standard deviations of those.
        noise: Standard deviation of the logarithm of a measurement.
        reach: Standard deviations that the interval reaches.
        error: Mean relative error of held-out architectures, 0.1 for 10 %.
        rows, models: Measurements and different models it was fitted on.
        sources: Where those are from.
        calibrated: Date on which the user measured them on the device; empty: they are published ones.
        counting: How the work is counted that coefficients are for.
    """

    key: Key
    coefficients: Array
    deviations: Array
    noise: float
    reach: float
    error: float
    rows: int
    models: int
    sources: tuple[str, ...]
    calibrated: str = ""
    counting: Counting = PLAIN


@dataclass(frozen=True)
class NearestModels:
    """Measured models of an accelerator that is not predicted from operations.

    Attributes:
        runtime, delegate, precision: What they were measured with.
        latencies: ``(model, input, ms)``.
    """

    runtime: str
    delegate: str
    precision: str
    latencies: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class DeviceCoefficients:
    """What is known of one profile."""

    fitted: tuple[FittedKey, ...]
    nearest: tuple[NearestModels, ...]


@dataclass(frozen=True)
class Shared:
    """What is known of all devices together.

    Attributes:
        scaling: How groups of a family differ between devices.
        transferred, specification: Logarithms that 90 % of the errors on held-out devices are within, by family, with
            measurements of the same cores, and without.
        runtime_change: Standard deviation of the logarithm of the ratio between two runtimes of the same device.
        threads_gain, threads_change: Mean and standard deviation of the logarithm of how many times faster several threads
            are than one.
        devices: Number of devices.
        rows: Number of measurements.
    """

    scaling: Scaling
    transferred: dict[Family, float]
    specification: dict[Family, float]
    runtime_change: float
    threads_gain: float
    threads_change: float
    devices: int
    rows: int


def coefficients_folder() -> Path:
    """Return the folder of the shipped files."""
    return profile_folder() / "coefficients"


def device_coefficients(profile: str) -> DeviceCoefficients:
    """Return what is known of a profile: the user's calibration, and what is shipped for anything else.

    Raises:
        UsageError: A file is of another version of edgekd, or broken.
    """
    shipped, own = shipped_coefficients(profile), read_device(user_file(profile))
    calibrated = {_alike(each.key) for each in own.fitted}
    rest = tuple(each for each in shipped.fitted if _alike(each.key) not in calibrated)
    return DeviceCoefficients((*own.fitted, *rest), (*own.nearest, *shipped.nearest))


def _alike(key: Key) -> tuple[Family, int | None]:
    """Return what a calibration replaces: whatever was published for the same runtime, precision and number of threads."""
    return family_of(key), key.thread_count


@cache
def shipped_coefficients(profile: str) -> DeviceCoefficients:
    """Return what is fitted to published latencies for a profile; nothing where there is no file.

    Raises:
        UsageError: The file is of another version of edgekd.
    """
    return read_device(coefficients_folder() / f"{profile}.toml")


def read_device(path: Path) -> DeviceCoefficients:
    """Read the file of a profile; where there is none, nothing is known.

    Raises:
        UsageError: The file is of another version of edgekd, or broken.
    """
    if not path.is_file():
        return DeviceCoefficients((), ())
    content = _read(path)
    try:
        return DeviceCoefficients(
            tuple(_fitted(each) for each in content.get("fitted", [])),
            tuple(
                NearestModels(each["runtime"], each["delegate"], each["precision"], tuple(
                    (name, size, milliseconds) for name, size, milliseconds in each["latencies"]
                )) for each in content.get("nearest", [])
            ),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no file of coefficients: {error!r}", _AGAIN) from None


@cache
def shared_coefficients() -> Shared:
    """Return what is fitted over all devices.

    Raises:
        UsageError: The file is missing, or of another version of edgekd.
    """
    content = _read(coefficients_folder() / "families.toml")
    families, of_cores, counts = {}, {}, {}
    transferred, specification = {}, {}
    for each in content["family"]:
        family = Family(each["runtime"], each["processor"], each["precision"], each["several_threads"])
        families[family] = np.log(each["coefficients"])
        transferred[family], specification[family] = each["transferred_reach"], each["specification_reach"]
        for core in each.get("core", []):
            of_cores[family, core["core"]] = np.log(core["coefficients"])
            counts[family, core["core"]] = core["devices"]
    scaling = Scaling(np.array(content["slopes"]), families, of_cores, counts)
    return Shared(
        scaling, transferred, specification, content["runtime_change"], content["threads_gain"],
        content["threads_change"], content["devices"], content["rows"],
    )  # fmt: skip


def write_device(path: Path, profile: str, found: DeviceCoefficients) -> None:
    """Write the file of a profile."""
    head = _HEAD_CALIBRATED if any(each.calibrated for each in found.fitted) else _HEAD
    lines = [*head, f"schema = {SCHEMA}", f"profile = {_text(profile)}", f"features = {_list(map(_text, FEATURES))}"]
    for each in found.fitted:
        key = each.key
        lines += ["", "[[fitted]]", 'basis = "fitted"', *(f"{name} = {_text(getattr(key, name))}" for name in _KEY),
                  f"rows = {each.rows}", f"models = {each.models}", f"sources = {_list(map(_text, each.sources))}",
                  f"error = {each.error:.4f}", f"reach = {each.reach:.3f}", f"noise = {each.noise:g}",
                  *([f"calibrated = {_text(each.calibrated)}"] if each.calibrated else []),
                  *([_counting(each.counting)] if each.counting != PLAIN else []),
                  f"coefficients = {_numbers(np.exp(each.coefficients))}",
                  f"deviations = {_list(f'{value:.2f}' for value in each.deviations)}"]  # fmt: skip
    for near in found.nearest:
        rows = _list(f"[{_text(name)}, {_text(size)}, {milliseconds:g}]" for name, size, milliseconds in near.latencies)
        lines += ["", "[[nearest]]", f"runtime = {_text(near.runtime)}", f"delegate = {_text(near.delegate)}",
                  f"precision = {_text(near.precision)}", f"latencies = {rows}"]  # fmt: skip
    write_text(path, "\n".join(lines) + "\n")


def write_shared(path: Path, shared: Shared) -> None:
    """Write the file of all devices."""
    scaling = shared.scaling
    lines = [
        *_HEAD, f"schema = {SCHEMA}", f"features = {_list(map(_text, FEATURES))}",
        "# Slopes of the logarithm of a coefficient: with those of clock, operations in a cycle, threads.",
        f"slopes = {_list(f'{value:.4f}' for value in scaling.slopes)}", f"runtime_change = {shared.runtime_change:.4f}",
        f"threads_gain = {shared.threads_gain:.4f}", f"threads_change = {shared.threads_change:.4f}",
        f"devices = {shared.devices}", f"rows = {shared.rows}",
    ]  # fmt: skip
    for family in sorted(scaling.families):
        lines += ["", "[[family]]", f"runtime = {_text(family.runtime)}", f"processor = {_text(family.processor)}",
                  f"precision = {_text(family.precision)}", f"several_threads = {str(family.several).lower()}",
                  f"transferred_reach = {shared.transferred[family]:.4f}",
                  f"specification_reach = {shared.specification[family]:.4f}",
                  f"coefficients = {_numbers(np.exp(scaling.families[family]))}"]  # fmt: skip
        for (own, core), values in sorted(scaling.of_cores.items()):
            if own == family:
                lines += ["[[family.core]]", f"core = {_text(core)}", f"devices = {scaling.counts[own, core]}",
                          f"coefficients = {_numbers(np.exp(values))}"]  # fmt: skip
    write_text(path, "\n".join(lines) + "\n")


def _fitted(each: dict[str, Any]) -> FittedKey:
    coefficients, deviations = np.array(each["coefficients"], float), np.array(each["deviations"], float)
    if coefficients.shape != (len(FEATURES),) or deviations.shape != coefficients.shape or not (coefficients > 0).all():
        raise ValueError(f"{len(FEATURES)} coefficients above 0 and as many deviations are needed")
    counting = Counting(**each.get("counting", {}))
    if min(counting.outputs, counting.inputs) < 1:
        raise ValueError("channels are rounded to multiples of 1 or more")
    return FittedKey(
        Key(*(str(each[name]) for name in _KEY)), np.log(coefficients), deviations, float(each["noise"]),
        float(each["reach"]), float(each["error"]), int(each["rows"]), int(each["models"]), tuple(each["sources"]),
        str(each.get("calibrated", "")), counting,
    )  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", _AGAIN) from None
    if content.get("schema") != SCHEMA or content.get("features") not in (None, list(FEATURES)):
        raise UsageError(f"{path} was written by another version of edgekd", _AGAIN)
    return content


def _counting(value: Counting) -> str:
    apart = str(value.apart).lower()
    return f"counting = {{ outputs = {value.outputs}, inputs = {value.inputs}, apart = {apart} }}"


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(each if each.isprintable() else " " for each in escaped) + '"'


def _list(values: Iterable[str]) -> str:
    return f"[{', '.join(values)}]"


def _numbers(values: Array) -> str:
    return _list(f"{value:.3e}" for value in values)


_KEY = ("device", "runtime", "delegate", "threads", "precision", "setup")
_AGAIN = "calibrate again or remove it, if it is yours; a shipped one: install edgekd again, or run tools/fit_profiles.py"
_HEAD_CALIBRATED = (
    "# Written by edgekd devices calibrate, from measurements on the device. Coefficients: ms for one unit of each feature,",
    "# and the standard deviations of their logarithms. What the keys mean: docs/devices.md.",
)
_HEAD = (
    "# Written by tools/fit_profiles.py from published latencies. Coefficients: ms for one unit of each feature, and the",
    "# standard deviations of their logarithms. What the keys mean: docs/devices.md.",
)
