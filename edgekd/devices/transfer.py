"""Predict on a device without measurements: from devices with the same cores, or from what its cores can do at best.

The factor of a group within its family is a line in the logarithms of clock, operations in a cycle, and threads. Its slopes
are fitted on all CPU groups, and lean on what a device without any other bottleneck would have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from edgekd.devices.fitting import PRIOR, Array, Fit, Group
from edgekd.devices.latency_table import Family, Key
from edgekd.devices.profiles import cores
from edgekd.devices.published_devices import Speed

_EXPECTED = np.array([-1.0, -0.5, -0.6])
"""Slopes before anything is measured: twice the clock halves the latency; wider cores and more threads help less."""
_LEAN = np.array([10.0, 3.0, 3.0])
"""How much the slopes lean on those, in groups."""
ALL_THREADS = 4
"""Threads where a table says all of the fast cores."""
_USUAL_PER_CYCLE = 8
"""Operations in a cycle of a core that ``cores.toml`` does not have."""


@dataclass(frozen=True)
class Scaling:
    """How groups of a family differ between devices.

    Attributes:
        slopes: Of the logarithms of clock, operations in a cycle, and threads.
        families: Logarithms of coefficients at 1 GHz, one operation in a cycle and one thread, for each family.
        of_cores: The same, for each family and core that was measured.
        counts: Devices behind each entry of ``of_cores``.
    """

    slopes: Array
    families: dict[Family, Array]
    of_cores: dict[tuple[Family, str], Array]
    counts: dict[tuple[Family, str], int]


def line(speed: Speed, precision: str, threads: int | None) -> Array:
    """Return the logarithms of clock, operations in a cycle, and threads."""
    core = cores().get(speed.core)
    per_cycle = _USUAL_PER_CYCLE
    if core is not None:
        per_cycle = {"int8": core.int8_per_cycle, "fp16": core.fp16_per_cycle}.get(precision, 0) or core.fp32_per_cycle
    return np.array([log(speed.ghz), log(per_cycle), log(threads or ALL_THREADS)])


def fit_scaling(groups: Sequence[Group], fit: Fit, speeds: dict[str, Speed]) -> Scaling:
    """Return how the CPU groups scale.

    Args:
        groups: All of them.
        fit: Of those.
        speeds: Fastest cores of devices, by id; groups of other devices are left out.
    """
    known = [
        (index, group) for index, group in enumerate(groups) if group.key.device in speeds and group.family.processor == "cpu"
    ]
    own, lines = {}, {}
    by_family: dict[Family, list[int]] = defaultdict(list)
    for index, group in known:
        own[index] = float((fit.coefficients[index] - fit.means[fit.family_index(group.family)]).mean())
        lines[index] = line(speeds[group.key.device], group.family.precision, group.key.thread_count)
        by_family[group.family].append(index)
    rows, sides = [np.diag(np.sqrt(_LEAN))], [np.sqrt(_LEAN) * _EXPECTED]
    for members in by_family.values():
        given, found = np.array([lines[index] for index in members]), np.array([own[index] for index in members])
        rows.append(given - given.mean(0))
        sides.append(found - found.mean())
    slopes = np.linalg.lstsq(np.concatenate(rows), np.concatenate(sides), rcond=None)[0]
    families, of_cores, counts = {}, {}, {}
    for family, members in by_family.items():
        offset = np.median([own[index] - lines[index] @ slopes for index in members])
        families[family] = fit.means[fit.family_index(family)] + offset
        by_core: dict[str, list[int]] = defaultdict(list)
        for index in members:
            by_core[speeds[groups[index].key.device].core].append(index)
        for core, mates in by_core.items():
            of_cores[family, core] = np.median([fit.coefficients[index] - lines[index] @ slopes for index in mates], 0)
            counts[family, core] = len({groups[index].key.device for index in mates})
    return Scaling(slopes, families, of_cores, counts)


def scaled(scaling: Scaling, family: Family, speed: Speed, threads: int | None) -> tuple[Array, bool] | None:
    """Return logarithms of coefficients on a device that was not measured, and whether one with its cores was.

    ``None``: no device was measured with the family.
    """
    given = float(line(speed, family.precision, threads) @ scaling.slopes)
    mates = scaling.of_cores.get((family, speed.core))
    if mates is not None:
        return mates + given, True
    general = scaling.families.get(family)
    return None if general is None else (general + given, False)


def from_specification(speed: Speed, precision: str, key: Key) -> Array:
    """Return logarithms of coefficients from the data sheet alone: a pointwise layer at half of what the core can do."""
    clock, per_cycle, threads = line(speed, precision, key.thread_count)
    at_best_ms = np.log(2 / 1e6) - clock - per_cycle - threads * _THREADS_USED
    coefficients: Array = PRIOR - PRIOR[0] + at_best_ms - np.log(_SHARE_OF_PEAK)
    return coefficients


_SHARE_OF_PEAK = 0.5
_THREADS_USED = 0.7
"""Exponent of the speed-up by threads that is expected without measurements."""
