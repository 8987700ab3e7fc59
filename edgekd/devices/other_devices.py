"""How well coefficients carry over to a device, a runtime or a number of threads that was not measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgekd.devices.crossvalidation import conformal
from edgekd.devices.fitting import Array, Fit, Group, fit_groups, log_latency
from edgekd.devices.latency_table import Family, Latency
from edgekd.devices.published_devices import Speed, speed_of
from edgekd.devices.transfer import fit_scaling, scaled

_ROUNDS = 1


@dataclass(frozen=True)
class OnNewDevice:
    """Predictions of a group by a fit without its device.

    Attributes:
        group: Place of the group.
        transferred: Whether another device with the same cores was measured.
        errors: Predicted minus measured logarithms.
    """

    group: int
    transferred: bool
    errors: Array


def speeds_of(latencies: Iterable[Latency]) -> dict[str, Speed]:
    """Return the fastest cores of every device of a table that tells them."""
    found: dict[str, Speed] = {}
    for each in latencies:
        if each.key.device not in found:
            speed = speed_of(each)
            if speed is not None:
                found[each.key.device] = speed
    return found


def leave_devices_out(groups: Sequence[Group], fit: Fit, speeds: dict[str, Speed]) -> list[OnNewDevice]:
    """Predict every CPU group from the groups of other devices alone."""
    found = []
    for device in sorted({group.key.device for group in groups if group.key.device in speeds}):
        kept = [index for index, group in enumerate(groups) if group.key.device != device]
        others = [groups[index] for index in kept]
        part = Fit(fit.families, fit.means, fit.coefficients[kept], fit.deviations[kept], fit.noise[kept])
        part = fit_groups(others, start=part, rounds=_ROUNDS)
        scaling = fit_scaling(others, part, speeds)
        for index, group in enumerate(groups):
            if group.key.device == device and group.family.processor == "cpu":
                given = scaled(scaling, group.family, speeds[device], group.key.thread_count)
                if given is not None:
                    found.append(OnNewDevice(index, given[1], log_latency(group.features, given[0]) - group.log_ms))
    return found


def after_one_factor(group: Group, errors: Array) -> Array:
    """Return errors after the factor of a device is set right by the measurements of other models than each one's."""
    corrected = errors.copy()
    models = np.array(group.models)
    for model in set(group.models):
        others = models != model
        if others.any():
            corrected[~others] -= np.median(errors[others])
    return corrected


def reaches(groups: Sequence[Group], found: Sequence[OnNewDevice]) -> tuple[dict[Family, float], dict[Family, float]]:
    """Return how far intervals reach on new devices, as logarithms: with measurements of the same cores, and without.

    A family with few devices takes the quantile of all families where its own is smaller.
    """
    families = {group.family for group in groups}
    result = []
    for transferred in (True, False):
        errors: dict[Family, list[Array]] = defaultdict(list)
        for each in found:
            if each.transferred == transferred:
                errors[groups[each.group].family].append(np.abs(each.errors))
        every = conformal(np.concatenate([each for own in errors.values() for each in own]))
        result.append({
            family: max(conformal(np.concatenate(errors[family])), every) if 0 < len(errors[family]) < _ENOUGH
            else conformal(np.concatenate(errors[family])) if errors[family] else every
            for family in families
        })  # fmt: skip
    # Nobody knows less where the same cores were measured.
    result[1] = {family: max(value, result[0][family]) for family, value in result[1].items()}
    if not all(np.isfinite(list(each.values())).all() for each in result):
        result = [{family: min(value, _WIDEST) for family, value in each.items()} for each in result]
    return result[0], result[1]


def runtime_change(groups: Sequence[Group]) -> float:
    """Return the standard deviation of the logarithm of the ratio between two runtimes on the same device."""
    ratios = []
    for first, second in _pairs(groups):
        same = first.family.precision == second.family.precision and first.family.several == second.family.several
        if same and first.family.runtime != second.family.runtime:
            ratio = _median_ratio(first, second)
            ratios += [] if ratio is None else [ratio]
    return float(np.sqrt(np.mean(np.square(ratios)))) if ratios else _WIDEST


def threads_gain(groups: Sequence[Group]) -> tuple[float, float]:
    """Return the logarithm of how many times faster several threads are than one, the median, and its standard deviation.

    The deviation is that of a normal distribution with the same quartiles.
    """
    ratios = []
    for first, second in _pairs(groups):
        same = replace(first.key, threads="", setup="") == replace(second.key, threads="", setup="")
        if same and first.family.several != second.family.several:
            ratio = _median_ratio(first, second)
            ratios += [] if ratio is None else [-ratio if first.family.several else ratio]
    if not ratios:
        return 0.0, _WIDEST
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return float(middle), float((high - low) / _QUARTILES)


def _pairs(groups: Sequence[Group]) -> Iterable[tuple[Group, Group]]:
    for first in groups:
        for second in groups:
            if first.key < second.key and first.key.device == second.key.device and first.family.processor == "cpu":
                yield first, second


def _median_ratio(first: Group, second: Group) -> float | None:
    """Return the median logarithm of the ratio of latencies over models that both have; ``None``: fewer than three."""
    rows = {row.tobytes(): value for row, value in zip(second.features.round(3), second.log_ms, strict=True)}
    found = [value - rows[key] for row, value in zip(first.features.round(3), first.log_ms, strict=True)
             if (key := row.tobytes()) in rows]  # fmt: skip
    return float(np.median(found)) if len(found) >= _FEWEST else None


_QUARTILES = 1.349
"""Distance of the quartiles of a normal distribution, in standard deviations."""
_FEWEST = 3
_ENOUGH = 10
"""Groups from which a family's own quantile is trusted: rows of one device err alike, so devices count, not rows."""
_WIDEST = 1.5
"""Where nothing was measured to tell: a factor of 4.5."""
