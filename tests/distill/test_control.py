"""What distillation brought: the paired difference against closed forms, and the coverage of its interval."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import multinomial

from edgekd.distill.control import Control, paired_difference, verdict
from edgekd.tasks.classification import proportion


def _pairs(both: int, only_first: int, only_second: int, neither: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    first = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
    second = np.repeat([True, False, True, False], [both, only_first, only_second, neither])
    shuffled = np.random.default_rng(0).permutation(len(first))
    return first[shuffled], second[shuffled]


def test_by_hand() -> None:
    """12 and 5 of 100: 7 points; with 1/2 in each cell d = 7 / 102, variance (18 - 49 / 102) / 102^2."""
    points, (low, high), discordant = paired_difference(*_pairs(60, 12, 5, 23))
    assert points == pytest.approx(7.0)
    assert discordant == (12, 5)
    half = 1.959964 * math.sqrt(18 - 49 / 102) / 102
    assert (low, high) == pytest.approx((100 * (7 / 102 - half), 100 * (7 / 102 + half)), abs=1e-4)


def test_many_samples_give_the_published_interval() -> None:
    """Approval of a prime minister, 794, 150, 86 and 570 of 1,600: 0.02 to 0.06 (Agresti, Categorical Data Analysis, 10.1)."""
    points, (low, high), _ = paired_difference(*_pairs(794, 150, 86, 570))
    assert points == pytest.approx(4.0)
    assert (round(low / 100, 2), round(high / 100, 2)) == (0.02, 0.06)


@given(st.lists(st.integers(0, 300), min_size=4, max_size=4).filter(any))
def test_it_is_antisymmetric_holds_its_point_and_stays_in_range(cells: list[int]) -> None:
    first, second = _pairs(*cells)
    points, (low, high), (mine, others) = paired_difference(first, second)
    back, (back_low, back_high), back_discordant = paired_difference(second, first)
    assert points == pytest.approx(100 * (first.mean() - second.mean()))
    assert (back, back_low, back_high) == pytest.approx((-points, -high, -low))
    assert back_discordant == (others, mine)
    assert -100 <= low <= points + 1e-9 and points - 1e-9 <= high <= 100
    assert low < high


def test_pairing_tells_what_separate_intervals_cannot() -> None:
    first, second = _pairs(8_000, 100, 20, 1_880)
    _, (low, high), _ = paired_difference(first, second)
    assert low > 0
    assert high - low < 0.5
    apart = [proportion("top1", int(each.sum()), len(each)).ci95 for each in (first, second)]
    assert apart[0][0] < apart[1][1]  # Wilson's intervals of the two overlap


@pytest.mark.parametrize("n", [20, 50, 120])
@pytest.mark.parametrize(("only_first", "only_second"), [(0.05, 0.05), (0.2, 0.1), (0.4, 0.02), (0.3, 0.3), (0.01, 0.005)])
def test_it_covers_the_truth_in_95_of_100_cases(n: int, only_first: float, only_second: float) -> None:
    """Exact: every pair of counts, weighted by its probability. Wald's plain interval covers 26 of 100 in the worst."""
    covered = 0.0
    for mine in range(n + 1):
        for others in range(n + 1 - mine):
            likely = multinomial.pmf(
                [mine, others, n - mine - others], n, [only_first, only_second, 1 - only_first - only_second]
            )
            if likely > 1e-9:
                _, (low, high), _ = paired_difference(*_pairs(n - mine - others, mine, others, 0))
                covered += likely * (low <= 100 * (only_first - only_second) <= high)
    assert 0.93 <= covered <= 1.0


def test_judgements_of_different_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="same samples"):
        paired_difference(np.ones(3, np.bool_), np.ones(4, np.bool_))
    with pytest.raises(ValueError, match="same samples"):
        paired_difference(np.ones(0, np.bool_), np.ones(0, np.bool_))


def _verdict(gain: float, low: float, high: float) -> str:
    return verdict(Control(proportion("top1", 90, 100), gain, (low, high), (0, 0)))


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((2.1, 1.3, 2.9), "distillation helped: +2.1 points (1.3 to 2.9)"),
        ((0.2, -0.5, 0.9), "distillation made no difference beyond chance: +0.2 points (-0.5 to 0.9)"),
        ((-1.04, -2.0, -0.3), "distillation hurt: -1.0 points (-2.0 to -0.3)"),
        ((0.21, 0.02, 0.4), "distillation helped: +0.21 points (0.02 to 0.40)"),
        ((0.0, 0.0, 0.0), "distillation made no difference beyond chance: +0.0 points (0.0 to 0.0)"),
    ],
)
def test_the_verdict(numbers: tuple[float, float, float], said: str) -> None:
    assert _verdict(*numbers) == said


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=3).map(sorted))
def test_the_verdict_and_its_numbers_agree(numbers: list[float]) -> None:
    low, gain, high = (round(each, 3) for each in numbers)
    said = _verdict(gain, low, high)
    shown = [float(each) for each in re.findall(r"[+-]?\d+\.\d+", said)]
    assert ("helped" in said) == (shown[1] > 0)
    assert ("hurt" in said) == (shown[2] < 0)
