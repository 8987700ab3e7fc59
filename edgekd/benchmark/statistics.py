"""What samples of a measurement say: percentiles with an interval, a verdict on the measurement, and which file is faster.

Samples come in turns: a fraction of a second of one file, then of the next. Neighbouring samples resemble each other, so
intervals come from resampling turns and from comparing blocks, never from single samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

MOST_CV = 0.05
"""Above this coefficient of variation, and for medians that disagree by more, a measurement is called noisy."""
SLOWDOWN = 0.05
"""By how much a device slows down at least before it is called throttled."""
_RESAMPLED = 1_000
_PER_TURN = 200
_SEED = 20_240_229
_TRIMMED = 99.0
_LEAST_TURNS = 6
_UNDERVOLTED_OR_CAPPED = 0xF
_HAS_OCCURRED = 0xF0000


@dataclass(frozen=True)
class Turn:
    """Samples of one file taken without a pause.

    Attributes:
        block, turn: Which block; which turn of it.
        t_s: Seconds since the first block began.
        ms: Times in milliseconds; of very fast files every so many-th.
        runs: How many there were.
        max_ms: The longest of all.
    """

    block: int
    turn: int
    t_s: float
    ms: tuple[float, ...]
    runs: int
    max_ms: float

    @property
    def median(self) -> float:
        """Median of the times in milliseconds."""
        return float(np.median(self.ms))


@dataclass(frozen=True)
class Summary:
    """Of all turns of a file, times in milliseconds.

    Attributes:
        runs: Number of inferences.
        min, mean, std, p50, p90, p99, max: Of their times; ``None``: the tool that measured does not tell.
        cv: Standard deviation over mean.
        trimmed_cv: The same without the slowest 1 %, which the operating system takes from every process.
        low, high: 95 % interval of the median.
    """

    runs: int
    min: float
    mean: float
    std: float
    cv: float
    trimmed_cv: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    max: float
    low: float | None
    high: float | None


def summarise_turns(turns: Sequence[Turn]) -> Summary:
    """Summarise one turn or more. The interval is a bootstrap over turns, or over samples where there are few turns."""
    times = np.concatenate([np.asarray(each.ms) for each in turns])
    # A turn of which every so many-th sample was kept counts as often as it ran.
    mean, std = float(times.mean()), float(times.std())
    p50, p90, p99 = (float(each) for each in np.percentile(times, (50, 90, 99)))
    low, high = _median_interval(turns)
    return Summary(
        sum(each.runs for each in turns), float(times.min()), mean, std, std / mean, _trimmed_cv(times), p50, p90, p99,
        max(each.max_ms for each in turns), low, high,
    )  # fmt: skip


def _trimmed_cv(times: NDArray[np.float64]) -> float:
    kept = times[times <= np.percentile(times, _TRIMMED)]
    return float(kept.std() / kept.mean())


def _median_interval(turns: Sequence[Turn]) -> tuple[float, float]:
    chance = np.random.default_rng(_SEED)
    if len(turns) >= _LEAST_TURNS:
        kept = [np.asarray(each.ms)[:: -(-len(each.ms) // _PER_TURN)] for each in turns]
        drawn = chance.integers(0, len(kept), (_RESAMPLED, len(kept)))
        medians = [np.median(np.concatenate([kept[index] for index in row])) for row in drawn]
    else:
        times = np.concatenate([np.asarray(each.ms) for each in turns])[: _PER_TURN * 25]
        medians = [np.median(chance.choice(times, len(times))) for _ in range(_RESAMPLED)]
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(low), float(high)


@dataclass(frozen=True)
class Verdict:
    """Whether a measurement can be trusted.

    Attributes:
        word: ``throttled``: the device slowed itself down; ``noisy``: something else ran, or the times scatter.
        reasons: Why, in words; none where it is stable.
    """

    word: Literal["stable", "noisy", "throttled"]
    reasons: tuple[str, ...]


def judge(turns: Sequence[Turn], canary: Sequence[Turn], states: Sequence[dict[str, Any]]) -> Verdict:
    """Judge the measurement of one file.

    Args:
        turns: Of the file.
        canary: Of the fixed work that runs before and after each block; none with a native tool.
        states: What the runner told of temperature, frequency and throttling, in order of time.
    """
    slow = _throttled(turns, canary, states)
    if slow:
        return Verdict("throttled", tuple(slow))
    reasons = []
    for what, given in (("the file's", turns), ("the canary's", canary)):
        if not given:
            continue
        cv = _trimmed_cv(np.concatenate([np.asarray(each.ms) for each in given]))
        if cv > MOST_CV:
            reasons.append(f"{what} times scatter by {cv:.1%}")
        spread = _spread(given)
        if spread > MOST_CV:
            reasons.append(f"{what} blocks disagree by {spread:.1%}")
    return Verdict("noisy" if reasons else "stable", tuple(reasons))


def _spread(turns: Sequence[Turn]) -> float:
    """Return by how much the medians of blocks disagree, as a share of the least."""
    medians = [_block_median(turns, block) for block in sorted({each.block for each in turns})]
    return max(medians) / min(medians) - 1


def _block_median(turns: Sequence[Turn], block: int) -> float:
    return float(np.median(np.concatenate([np.asarray(each.ms) for each in turns if each.block == block])))


def slowdown(turns: Sequence[Turn]) -> float | None:
    """Return by which share the last fifth of the turns is slower than the first fifth; ``None``: too few turns."""
    if len(turns) < _LEAST_TURNS:
        return None
    ordered = sorted(turns, key=lambda each: each.t_s)
    count = max(2, len(ordered) // 5)
    first, last = (np.median([each.median for each in part]) for part in (ordered[:count], ordered[-count:]))
    return float(last / first - 1)


def _throttled(turns: Sequence[Turn], canary: Sequence[Turn], states: Sequence[dict[str, Any]]) -> list[str]:
    reasons = []
    flags = [each["throttled"] for each in states if each.get("throttled") is not None]
    if flags:
        during = 0
        for each in flags:
            during |= each & _UNDERVOLTED_OR_CAPPED
        new = flags[-1] & ~flags[0] & _HAS_OCCURRED
        if during or new:
            reasons.append(f"the firmware says so: {_flag_names(during | new >> 16)}")
    counts = [each["throttle_count"] for each in states if each.get("throttle_count") is not None]
    if len(counts) > 1 and counts[-1] > counts[0]:
        reasons.append(f"the processor throttled {counts[-1] - counts[0]} times")
    slow = slowdown(turns)
    if slow is None or slow <= SLOWDOWN:
        return reasons
    speeds = [max(each["frequencies"].values()) for each in states if each.get("frequencies")]
    if len(speeds) > 1 and speeds[-1] < speeds[0] * (1 - SLOWDOWN):
        reasons.append(
            f"its clock fell from {speeds[0] / 1e3:,.0f} to {speeds[-1] / 1e3:,.0f} MHz, and it slowed by {slow:.0%}"
        )
    ordered = sorted(canary, key=lambda each: each.t_s)
    if len(ordered) > 1 and (ratio := ordered[-1].median / ordered[0].median - 1) > SLOWDOWN and _even(ordered):
        reasons.append(f"file and canary slowed down by {slow:.0%} and {ratio:.0%} from beginning to end")
    elif not ordered or ordered[-1].block == ordered[0].block:
        heats = [max(each["temperatures"].values()) for each in states if each.get("temperatures")]
        if len(heats) > 1 and heats[-1] - heats[0] >= 5:
            reasons.append(f"it slowed down by {slow:.0%} while it heated from {heats[0]:.0f} to {heats[-1]:.0f} °C")
    return reasons


def _even(turns: Sequence[Turn]) -> bool:
    """Whether times within a turn resemble each other: a lower clock slows all of them, another process some."""
    return float(np.median([_trimmed_cv(np.asarray(each.ms)) for each in turns])) <= MOST_CV


def _flag_names(flags: int) -> str:
    names = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
    return ", ".join(name for place, name in enumerate(names) if flags >> place & 1)


@dataclass(frozen=True)
class Comparison:
    """Which of two files is faster, by turns that stood next to each other.

    Attributes:
        first, second: Their names.
        ratio: Median time of ``second`` over that of ``first``.
        low, high: 95 % interval of the ratio.
        blocks, pairs: How many blocks and pairs of turns it is from.
    """

    first: str
    second: str
    ratio: float
    low: float
    high: float
    blocks: int
    pairs: int

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 1."""
        return not self.low <= 1 <= self.high

    def text(self) -> str:
        """Return it in words."""
        around = f"{100 * (self.low - 1):+.1f} to {100 * (self.high - 1):+.1f} %"
        if not self.differs:
            return f"{self.first} and {self.second}: no difference beyond noise ({100 * (self.ratio - 1):+.1f} %, {around})"
        word = "slower" if self.ratio > 1 else "faster"
        return f"{self.second} is {abs(self.ratio - 1):.1%} {word} than {self.first} ({around})"


def compare_turns(names: tuple[str, str], first: Sequence[Turn], second: Sequence[Turn]) -> Comparison | None:
    """Compare two files; ``None``: they have no turns in common.

    The interval covers both what differs between blocks, each with new processes, by Student's t, and between turns, by a
    bootstrap.
    """
    mine = {(each.block, each.turn): each.median for each in first}
    pairs = [(each.block, math.log(each.median / mine[each.block, each.turn])) for each in second
             if (each.block, each.turn) in mine]  # fmt: skip
    if not pairs:
        return None
    logs = np.asarray([each for _, each in pairs])
    blocks = sorted({block for block, _ in pairs})
    of_blocks = [float(np.median([each for block, each in pairs if block == wanted])) for wanted in blocks]
    middle = float(np.mean(of_blocks))
    chance = np.random.default_rng(_SEED)
    medians = np.median(chance.choice(logs, (_RESAMPLED, len(logs))), axis=1)
    low, high = (float(each) for each in np.percentile(medians, (2.5, 97.5)))
    if len(blocks) > 1:
        from scipy.stats import t

        half = float(t.ppf(0.975, len(blocks) - 1)) * float(np.std(of_blocks, ddof=1)) / math.sqrt(len(blocks))
        low, high = min(low, middle - half), max(high, middle + half)
    return Comparison(
        *names, math.exp(middle), math.exp(min(low, middle)), math.exp(max(high, middle)), len(blocks), len(pairs)
    )
