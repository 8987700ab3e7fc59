"""Rescue: the mildest treatments of known killers that are needed, each measured.

All killers that were found are treated at once first, with the strongest means, because one that is left hides what the others
bring. Then each is treated as mildly as possible: not at all, by ranges, by operators in floating point, by layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.quantize.quality import Quality
from edgekd.quantize.range_file import Ranges
from edgekd.quantize.rescue_rules import Finding, Treatment

_WORTH_DB = 1.0
"""What treatments must bring, in dB of signal to noise, and what a milder one may cost where the goal is out of reach."""
_NONE = Treatment("none")


@dataclass(frozen=True)
class Applied:
    """What became of one killer.

    Attributes:
        finding: The killer.
        treatment: In words; ``None``: it does no harm worth treating.
        ranges, keep: What the treatment sets.
        before: Quality without treatment of it, the others treated as they were by then.
        after: Quality with it, ``before`` where it is not treated.
    """

    finding: Finding
    treatment: str | None
    ranges: Ranges
    keep: tuple[str, ...]
    before: Quality
    after: Quality

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "rule": self.finding.rule, "why": self.finding.why, "where": list(self.finding.where),
            "treatment": self.treatment, "ranges": {name: list(each) for name, each in self.ranges.items()},
            "kept": list(self.keep), "before": _told(self.before), "after": _told(self.after),
        }  # fmt: skip


@dataclass(frozen=True)
class Rescue:
    """What treating known killers ended with.

    Attributes:
        ranges, keep: What all treatments set together.
        quality: Of the file with them.
        applied: One for each killer, treated or not.
    """

    ranges: Ranges
    keep: tuple[str, ...]
    quality: Quality
    applied: tuple[Applied, ...]


def rescue(
    findings: Sequence[Finding], untreated: Quality, quality_of: Callable[[Ranges, tuple[str, ...]], Quality],
    holds: Callable[[Quality], bool], macs: Mapping[str, int],
) -> Rescue:  # fmt: skip
    """Treat killers as mildly as it takes to reach the goal; where they cannot, to come within 1 dB of what they can.

    Args:
        findings: The killers. At most one file for each of their treatments and two more are judged.
        untreated: Quality of the file without treatment.
        quality_of: Makes the file with these ranges and layers in floating point, and judges it.
        holds: Whether a quality reaches the goal.
        macs: Multiply-accumulates of each layer: the treatment that takes most of them from int8 is spared first.
    """
    if not findings or holds(untreated):
        return Rescue({}, (), untreated, tuple(_untreated(each, untreated) for each in findings))
    chosen = {place: each.treatments[-1] for place, each in enumerate(findings)}
    best = quality_of(*_together(chosen.values()))
    reached = holds(best)
    if not reached and best.sqnr_db < untreated.sqnr_db + _WORTH_DB:
        return Rescue({}, (), untreated, tuple(_untreated(each, untreated) for each in findings))

    def suffices(quality: Quality) -> bool:
        return holds(quality) if reached else quality.sqnr_db >= best.sqnr_db - _WORTH_DB

    quality = best
    applied: dict[int, Applied] = {}
    for place in sorted(chosen, key=lambda each: (-_work(findings[each], macs), each)):
        finding = findings[place]
        before = None
        for treatment in (_NONE, *finding.treatments[:-1]):
            milder = quality_of(*_together((chosen | {place: treatment}).values()))
            before = before or milder
            if suffices(milder):
                chosen[place], quality = treatment, milder
                break
        assert before is not None
        final = chosen[place]
        applied[place] = Applied(
            finding, None if final is _NONE else final.what, final.ranges, final.keep, before, quality
        )  # fmt: skip
    ranges, keep = _together(chosen.values())
    return Rescue(ranges, keep, quality, tuple(applied[place] for place in range(len(findings))))


def _untreated(finding: Finding, quality: Quality) -> Applied:
    return Applied(finding, None, {}, (), quality, quality)


def _together(treatments: Any) -> tuple[Ranges, tuple[str, ...]]:
    ranges: Ranges = {}
    keep: dict[str, None] = {}
    for each in treatments:
        ranges |= each.ranges
        keep |= dict.fromkeys(each.keep)
    return ranges, tuple(keep)


def _work(finding: Finding, macs: Mapping[str, int]) -> int:
    return sum(macs.get(name, 0) for name in finding.treatments[-1].keep)


def _told(quality: Quality) -> dict[str, Any]:
    return {"top1": quality.top1, "agreement": quality.agreement, "sqnr_db": quality.sqnr_db, "n": quality.n}
