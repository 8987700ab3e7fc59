"""Which of several quantized files is taken: the mildest means come first, and no more are tried once the goal holds.

A step makes and measures candidates; the first compares ways to set ranges, later ones change weights, or keep layers in float.
Whatever happens, the best that was seen is returned, and everything that was tried is kept for the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.quantize.quality import Quality
from edgekd.recipe import Recipe


@dataclass(frozen=True)
class Means:
    """By what a file was made good.

    Attributes:
        ranges: How ranges of activations were set, see :mod:`edgekd.quantize.ranges`.
        weights: What was done to the weights first; ``as-trained``: nothing.
        keep: Layers of the float32 file that compute in float.
    """

    ranges: str
    weights: str = "as-trained"
    keep: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the means as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Candidate:
    """A file that might be taken.

    Attributes:
        means: By what it was made.
        quality: On validation samples.
        file: Where it is; ``None``: it was not kept, for another of its step was better.
    """

    means: Means
    quality: Quality
    file: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Return means and quality as plain data."""
        return {**self.means.to_json(), "quality": self.quality.to_json()}


@dataclass(frozen=True)
class Goal:
    """When a file is good enough, all on validation samples.

    Attributes:
        max_drop: Points of accuracy that it may lose to the student in PyTorch.
        agreement: Share of samples to which it gives the student's class, at least.
        sqnr_db: Signal to quantization noise of the worst output, in dB, at least.
        gain_error: By how much it may scale its outputs.
        max_offset: What it may add to all outputs, as a share of their range.
    """

    max_drop: float
    agreement: float = 0.0
    sqnr_db: float = -200.0
    gain_error: float = 1e9
    max_offset: float = 1e9

    def holds(self, quality: Quality) -> bool:
        """Return whether a file of this quality is good enough."""
        return (
            quality.drop <= self.max_drop + 1e-9
            and quality.agreement >= self.agreement - 1e-9
            and quality.sqnr_db >= self.sqnr_db
            and abs(quality.gain - 1) <= self.gain_error
            and abs(quality.offset) <= self.max_offset
        )


def goal_of(recipe: Recipe) -> Goal:
    """Return ``quantize.max_drop`` and the promises for int8 files, which validation samples should keep as well."""
    gates = recipe.gates
    return Goal(
        recipe.quantize.max_drop, gates.int8_agreement, gates.int8_sqnr_db, gates.int8_gain_error, gates.int8_max_offset
    )


@dataclass(frozen=True)
class Choice:
    """What was taken, and what else was tried.

    Attributes:
        chosen: The best.
        tried: All candidates, in order.
        held: Whether the chosen one meets the goal.
    """

    chosen: Candidate
    tried: tuple[Candidate, ...]
    held: bool

    def to_json(self) -> dict[str, Any]:
        """Return the choice as the report has it."""
        return {
            "chosen": self.chosen.to_json(), "goal_held": self.held, "candidates": [each.to_json() for each in self.tried],
        }  # fmt: skip


Step = Callable[[Candidate | None], Sequence[Candidate]]
"""Makes and measures candidates; it is given the best so far, ``None`` in the first step. It may return none."""


def choose(steps: Iterable[Step], goal: Goal) -> Choice:
    """Take step after step until the best candidate meets ``goal`` or no step is left.

    Raises:
        ValueError: No step returned anything.
    """
    tried: list[Candidate] = []
    best: Candidate | None = None
    for step in steps:
        tried += step(best)
        best = best_of(tried, goal) if tried else None
        if best is not None and goal.holds(best.quality):
            break
    if best is None:
        raise ValueError("there is nothing to choose from")
    return Choice(best, tuple(tried), goal.holds(best.quality))


def best_of(candidates: Sequence[Candidate], goal: Goal) -> Candidate:
    """Return the candidate to take: one that meets the goal before one that does not.

    Among those whose accuracy is within its standard error of the highest, which no sample tells apart, the one with the least
    quantization noise; of equals the first, for it is the mildest.
    """
    some = [each for each in candidates if goal.holds(each.quality)] or list(candidates)
    highest = max((each.quality for each in some), key=lambda quality: quality.top1)
    close = [each for each in some if 100 * (highest.top1 - each.quality.top1) <= highest.noise + 1e-9]
    return max(close, key=lambda each: each.quality.sqnr_db)
