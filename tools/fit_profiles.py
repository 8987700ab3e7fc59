"""Fit the coefficients of the device profiles: from a table of published latencies to ``devices/coefficients/*.toml``.

    python tools/fit_profiles.py published_latency.csv

Takes a minute. Running it again on the same table writes the same files. The table is no part of edgekd; its columns are in
``edgekd/devices/latency_table.py``.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from edgekd.devices.coefficients import DeviceCoefficients, FittedKey, NearestModels, Shared, write_device, write_shared
from edgekd.devices.crossvalidation import HeldOut, choose_settings, quantile
from edgekd.devices.fitting import Fit, Group
from edgekd.devices.latency_table import Key, Latency, read_latencies
from edgekd.devices.model_table import groups_of, model_at
from edgekd.devices.other_devices import leave_devices_out, reaches, runtime_change, speeds_of, threads_gain
from edgekd.devices.published_devices import profile_of_device
from edgekd.devices.transfer import fit_scaling

_OUT = Path(__file__).parent.parent / "devices" / "coefficients"


def main() -> None:
    """Fit, and write a file for each profile that has rows, and one of what all share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, default=_OUT)
    arguments = parser.parse_args()
    latencies = read_latencies(arguments.table)
    groups = groups_of(latencies)
    _, fit, held = choose_settings(groups)
    speeds = speeds_of(latencies)
    scaling = fit_scaling(groups, fit, speeds)
    transferred, specification = reaches(groups, leave_devices_out(groups, fit, speeds))
    rows = sum(len(group.models) for group in groups)
    shared = Shared(
        scaling, transferred, specification, runtime_change(groups), *threads_gain(groups),
        len({group.key.device for group in groups}), rows,
    )  # fmt: skip
    write_shared(arguments.out / "families.toml", shared)
    fitted = fitted_keys(groups, fit, held, latencies)
    nearest = nearest_models(latencies)
    by_profile: dict[str, list[str]] = defaultdict(list)
    for device, profile in profile_of_device().items():
        by_profile[profile].append(device)
    written = 0
    for profile, devices in sorted(by_profile.items()):
        found = DeviceCoefficients(
            tuple(each for device in devices for each in fitted[device]),
            tuple(each for device in devices for each in nearest[device]),
        )  # fmt: skip
        if found.fitted or found.nearest:
            write_device(arguments.out / f"{profile}.toml", profile, found)
            written += 1
    print(f"{rows} measurements, {len(groups)} keys, {shared.devices} devices; {written} profiles in {arguments.out}")


def fitted_keys(
    groups: list[Group], fit: Fit, held: list[HeldOut], latencies: list[Latency]
) -> dict[str, list[FittedKey]]:  # fmt: skip
    """Return the fitted keys of each device, with their held-out errors."""
    sources: dict[Key, set[str]] = defaultdict(set)
    for each in latencies:
        sources[each.key].add(each.source)
    standardized = [np.abs(each.errors) / each.deviations for each in held]
    found: dict[str, list[FittedKey]] = defaultdict(list)
    for index, group in enumerate(groups):
        family = [standardized[other] for other, each in enumerate(groups) if each.family == group.family and other != index]
        reach = quantile(standardized[index], np.concatenate(family) if family else np.zeros(0))
        found[group.key.device].append(FittedKey(
            group.key, fit.coefficients[index], fit.deviations[index], float(fit.noise[index]), reach,
            float(np.abs(held[index].relative).mean()), len(group.models), len(set(group.models)),
            tuple(sorted(sources[group.key])),
        ))  # fmt: skip
    return found


def nearest_models(latencies: list[Latency]) -> dict[str, list[NearestModels]]:
    """Return, for each device, the models that were measured on accelerators that are not predicted from operations."""
    measured: dict[tuple[str, str, str, str], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in latencies:
        if each.key.processor == "npu" and model_at(each.model, each.input) is not None:
            key = each.key
            measured[key.device, key.runtime, key.delegate, key.precision][each.model, each.input].append(each.ms)
    found: dict[str, list[NearestModels]] = defaultdict(list)
    for (device, runtime, delegate, precision), models in sorted(measured.items()):
        rows = tuple((name, size, float(np.median(values))) for (name, size), values in sorted(models.items()))
        found[device].append(NearestModels(runtime, delegate, precision, rows))
    return found


if __name__ == "__main__":
    main()
