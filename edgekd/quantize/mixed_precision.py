"""Mixed precision: the fewest and cheapest layers that have to stay in floating point, found by trying.

A pure search over a function that makes a file and judges it. It assumes nothing of that function: what it returns was
measured, also where the errors of layers mask or cancel one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgekd.quantize.layers import Group
from edgekd.quantize.quality import Quality

_BORDER = 0.02
"""What one more group in floating point costs beside its share of the work: conversions at its borders."""
_MOST_TRIALS = 48
"""Files made and judged in one search, at most."""


@dataclass(frozen=True)
class Trial:
    """One file that was made and judged.

    Attributes:
        kept: Layers in floating point, in order of execution.
        int8_macs, int8_weights: Share of multiply-accumulates, and of the bytes of weights, of the layers in int8, 0 to 1.
        quality: As measured.
        holds: Whether that reaches the goal.
    """

    kept: tuple[str, ...]
    int8_macs: float
    int8_weights: float
    quality: Quality
    holds: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class MixedPrecision:
    """What a search ended with.

    Attributes:
        best: The cheapest file that reaches the goal; where none does, the one with the best signal to noise.
        trials: Every file that was judged, those with most in int8 first: the curve of the report.
    """

    best: Trial
    trials: tuple[Trial, ...]


def keep_fewest(
    groups: Sequence[Group], harm: Sequence[float], quality_of: Callable[[tuple[str, ...]], Quality],
    holds: Callable[[Quality], bool], most_trials: int = _MOST_TRIALS,
) -> MixedPrecision:  # fmt: skip
    """Return the fewest and cheapest groups whose layers, kept in floating point, make a file reach the goal.

    Groups are ranked by their harm, and by it per cost. Of each ranking the shortest beginning that reaches the goal is found
    by halving, and its last group is replaced by cheaper ones from further down where those reach the goal as well; then
    groups are given back to int8, the costliest first, as long as the goal holds. So no single group that is kept could be
    spared, unless trials ran out; and where harms add up, what is kept costs at most twice the least that reaches the goal
    (Csirik et al., "Heuristics for the 0-1 min-knapsack problem", 1991).

    Args:
        groups: In order of execution.
        harm: Of each group what it does to the outputs in int8, in any unit, above 0 where it does harm.
        quality_of: Makes the file that keeps the layers it is given, and judges it.
        holds: Whether a quality reaches the goal.
        most_trials: Calls of ``quality_of``, at least 2.
    """
    search = _Search(groups, quality_of, holds, most_trials)
    everything = frozenset(range(len(groups)))
    if not search.try_out(frozenset()) and everything:
        search.try_out(everything)
        by_harm = sorted(everything, key=lambda index: (-harm[index], index))
        by_worth = sorted(everything, key=lambda index: (-harm[index] / search.costs[index], index))
        for ranking in (by_worth, by_harm):
            search.replace_last(ranking, search.shorten(ranking))
        search.give_back()
        search.fill_curve(by_worth)
    return search.result()


class _Search:
    """What was tried so far, by the indices of the groups in floating point."""

    def __init__(
        self, groups: Sequence[Group], quality_of: Callable[[tuple[str, ...]], Quality],
        holds: Callable[[Quality], bool], most_trials: int,
    ) -> None:  # fmt: skip
        self._groups, self._quality_of, self._holds = groups, quality_of, holds
        self._left = max(2, most_trials)
        self._tried: dict[frozenset[int], Trial] = {}
        self._macs = max(1, sum(each.macs for each in groups))
        self._weights = max(1, sum(each.weight_bytes for each in groups))
        self.costs = [each.macs / self._macs + _BORDER for each in groups]

    def try_out(self, kept: frozenset[int]) -> bool:
        """Judge the file that keeps these groups, once; return whether it reaches the goal; out of trials: no."""
        if kept not in self._tried:
            if not self._left:
                return False
            self._left -= 1
            layers = tuple(name for index in sorted(kept) for name in self._groups[index].layers)
            quality = self._quality_of(layers)
            macs = sum(self._groups[index].macs for index in kept) / self._macs
            weights = sum(self._groups[index].weight_bytes for index in kept) / self._weights
            self._tried[kept] = Trial(layers, 1 - macs, 1 - weights, quality, self._holds(quality))
        return self._tried[kept].holds

    def shorten(self, ranking: list[int]) -> int:
        """Return how long the shortest beginning of a ranking is that reaches the goal, as far as longer is never worse."""
        fails, reaches = 0, len(ranking)
        while reaches - fails > 1:
            middle = (fails + reaches) // 2
            if self.try_out(frozenset(ranking[:middle])):
                reaches = middle
            else:
                fails = middle
        return reaches

    def replace_last(self, ranking: list[int], length: int) -> None:
        """Go on down a ranking without each group that reaches the goal, as long as that can become cheaper.

        Args:
            ranking: All groups.
            length: Of its shortest beginning that reaches the goal.
        """
        fails = frozenset(ranking[: length - 1])
        for index in ranking[length:]:
            best = self._cheapest()
            if best is not None and self._cost(fails | {index}) < self._cost(best) and not self.try_out(fails | {index}):
                fails |= {index}

    def give_back(self) -> None:
        """Give groups of the cheapest file that reaches the goal back to int8, until none can be spared."""
        best = self._cheapest()
        while best is not None:
            for index in sorted(best, key=lambda each: (-self.costs[each], each)):
                if self.try_out(best - {index}):
                    break
            following = self._cheapest()
            best = following if following != best else None

    def fill_curve(self, ranking: list[int]) -> None:
        """Judge beginnings of a ranking, each twice as long as the one before."""
        count = 1
        while count < len(ranking):
            self.try_out(frozenset(ranking[:count]))
            count *= 2

    def _cost(self, kept: Iterable[int]) -> float:
        return sum(self.costs[index] for index in kept)

    def _cheapest(self) -> frozenset[int] | None:
        reaching = [kept for kept, trial in self._tried.items() if trial.holds]
        return min(reaching, key=lambda kept: (self._cost(kept), sorted(kept)), default=None)

    def result(self) -> MixedPrecision:
        """Return the best of what was tried, and all of it."""
        cheapest = self._cheapest()
        if cheapest is None:
            cheapest = max(self._tried, key=lambda kept: (self._tried[kept].quality.sqnr_db, -self._cost(kept)))
        ordered = sorted(self._tried.values(), key=lambda each: (-each.int8_macs, -each.int8_weights, each.kept))
        return MixedPrecision(self._tried[cheapest], tuple(ordered))
