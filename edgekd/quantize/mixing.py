"""From an int8 file that loses too much to one that does not: known killers first, then the layers that harm most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from edgekd.quantize.layers import Layers, group_layers
from edgekd.quantize.mixed_precision import Trial, keep_fewest
from edgekd.quantize.quality import Quality
from edgekd.quantize.range_file import Ranges
from edgekd.quantize.rescue import Applied, rescue
from edgekd.quantize.rescue_rules import Observed, find_killers
from edgekd.quantize.sensitivity import Sensitivity, measure_sensitivity

Judge = Callable[[Ranges, tuple[str, ...]], Quality]
"""Makes the file with these ranges of tensors and these layers in floating point, and judges it."""


@dataclass(frozen=True)
class Mixed:
    """An int8 file with some layers in floating point.

    Attributes:
        ranges, keep: How it is made; ``keep`` in order of execution.
        quality: As measured.
        holds: Whether that reaches the goal.
        plain: Quality of the file all in int8.
        applied: What became of each known killer.
        sensitivity: Of each group of layers that the killers left; empty where treating them was enough.
        curve: Every file that was judged on the way, those with most in int8 first.
    """

    ranges: Ranges
    keep: tuple[str, ...]
    quality: Quality
    holds: bool
    plain: Quality
    applied: tuple[Applied, ...]
    sensitivity: tuple[Sensitivity, ...]
    curve: tuple[Trial, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what the report tells, as plain data."""
        reasons = {name: each.finding.rule for each in self.applied for name in each.keep}
        harm = {name: each.harm for each in self.sensitivity for name in each.group.layers}
        kept = [{"layer": name, "why": reasons.get(name, "sensitivity"), "harm": harm.get(name)} for name in self.keep]
        return {
            "holds": self.holds, "plain": asdict(self.plain), "quality": asdict(self.quality), "kept": kept,
            "rules": [each.to_json() for each in self.applied],
            "sensitivity": [each.to_json() for each in self.sensitivity], "curve": [each.to_json() for each in self.curve],
        }  # fmt: skip


def mix_precision(
    layers: Layers, observed: Observed, judge: Judge, holds: Callable[[Quality], bool], keep: tuple[str, ...] = ()
) -> Mixed:
    """Return the file with the fewest and cheapest layers in floating point that reaches the goal, or the best that was seen.

    Known killers are treated as mildly as it takes. Where that is not enough, the sensitivity of each group of the other layers
    is measured, and the fewest and cheapest of them are kept in floating point.

    Args:
        layers: Of the float file.
        observed: Ranges that its tensors took over the calibration samples.
        judge: Makes and judges a file; called at most about 100 times, usually 10 to 40.
        holds: Whether a quality reaches the goal.
        keep: Layers that are in floating point in any case.
    """
    judged: dict[tuple[str, ...], list[tuple[Ranges, Quality]]] = {}

    def made(ranges: Ranges, kept: tuple[str, ...]) -> Quality:
        names = _ordered(layers, {*keep, *kept})
        for known, quality in judged.setdefault(names, []):
            if known == ranges:
                return quality
        judged[names].append((ranges, judge(ranges, names)))
        return judged[names][-1][1]

    plain = made({}, ())
    findings = find_killers(layers, observed)
    macs = {each.name: each.macs for each in layers.layers}
    rescued = rescue(findings, plain, made, holds, macs)
    kept, quality = rescued.keep, rescued.quality
    sensitivity: tuple[Sensitivity, ...] = ()
    if not holds(quality):
        spared = {*keep, *kept}
        groups = group_layers(tuple(each for each in layers.layers if each.name not in spared))

        def quality_of(more: tuple[str, ...]) -> Quality:
            return made(rescued.ranges, (*kept, *more))

        sensitivity = measure_sensitivity(groups, quality_of)
        best = keep_fewest(groups, [each.harm for each in sensitivity], quality_of, holds).best
        kept, quality = (*kept, *best.kept), best.quality
    names = _ordered(layers, {*keep, *kept})
    curve = _curve(layers, judged, holds)
    return Mixed(rescued.ranges, names, quality, holds(quality), plain, rescued.applied, sensitivity, curve)


def _ordered(layers: Layers, names: set[str]) -> tuple[str, ...]:
    return tuple(each.name for each in layers.layers if each.name in names)


def _curve(
    layers: Layers, judged: dict[tuple[str, ...], list[tuple[Ranges, Quality]]], holds: Callable[[Quality], bool]
) -> tuple[Trial, ...]:
    """Return the best quality seen for each set of layers in floating point."""
    macs = sum(each.macs for each in layers.layers) or 1
    weights = sum(each.weight_bytes for each in layers.layers) or 1
    points = []
    for kept, found in judged.items():
        chosen = set(kept)
        float_macs = sum(each.macs for each in layers.layers if each.name in chosen or not each.quantizable)
        float_weights = sum(each.weight_bytes for each in layers.layers if each.name in chosen or not each.quantizable)
        quality = max((each for _, each in found), key=lambda each: each.sqnr_db)
        points.append(Trial(kept, 1 - float_macs / macs, 1 - float_weights / weights, quality, holds(quality)))
    return tuple(sorted(points, key=lambda each: (-each.int8_macs, -each.int8_weights, each.kept)))
