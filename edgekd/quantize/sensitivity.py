"""How much each group of layers harms a file's outputs in int8, measured on the file in its runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.quantize.layers import Group
from edgekd.quantize.quality import Quality

_EXPLAINED = 0.5
"""Where groups kept in float one by one take away less than this share of all noise, they hide behind one another."""


@dataclass(frozen=True)
class Sensitivity:
    """What int8 does to one group of layers.

    Attributes:
        group: The layers.
        in_float: Quality of the file where only they compute in floating point.
        in_int8: Quality of the file where only they compute in int8; ``None``: not needed.
        harm: Noise that they add to the outputs, as a share of the signal's power.
    """

    group: Group
    in_float: Quality
    in_int8: Quality | None
    harm: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, qualities as dB of signal to noise."""
        alone = None if self.in_int8 is None else self.in_int8.sqnr_db
        return {
            "layers": list(self.group.layers), "macs": self.group.macs, "harm": self.harm,
            "sqnr_db_in_float": self.in_float.sqnr_db, "sqnr_db_in_int8": alone,
        }  # fmt: skip


def measure_sensitivity(groups: Sequence[Group], quality_of: Callable[[tuple[str, ...]], Quality]) -> tuple[Sensitivity, ...]:
    """Judge one file for each group that computes in floating point while all others are in int8, and one without any.

    Where two groups each ruin the outputs, freeing one of them shows nothing. So where the groups together explain less than
    half of the noise, each is also judged alone in int8: at most ``2 * len(groups) + 1`` files.

    Args:
        groups: In order of execution.
        quality_of: Makes the file that keeps the layers it is given in floating point, and judges it.
    """
    noise = _noise(quality_of(()))
    in_float = [quality_of(each.layers) for each in groups]
    gains = [max(0.0, noise - _noise(each)) for each in in_float]
    if sum(gains) >= _EXPLAINED * noise:
        return tuple(Sensitivity(group, freed, None, gain) for group, freed, gain in zip(groups, in_float, gains, strict=True))
    found = []
    for group, freed, gain in zip(groups, in_float, gains, strict=True):
        others = tuple(name for each in groups if each is not group for name in each.layers)
        alone = quality_of(others)
        found.append(Sensitivity(group, freed, alone, max(gain, _noise(alone))))
    return tuple(found)


def _noise(quality: Quality) -> float:
    """Return the power of noise as a share of the signal's."""
    return float(10 ** (-quality.sqnr_db / 10))
