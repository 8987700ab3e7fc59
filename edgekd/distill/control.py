"""The control: the same student, trained alone for as long, and what distillation brought over it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.tasks.classification import Metric

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Control:
    """The student trained on the labels alone, beside the distilled one.

    Attributes:
        metric: Of the student trained alone, on the test split.
        gain: Points of accuracy of the distilled student over it.
        ci95: 95 % interval of ``gain`` in points, see :func:`paired_difference`. It tells how sure the test samples make
            of these two networks; it does not cover what another seed would have trained.
        discordant: Test samples that the distilled student alone has right, and that the other one alone has right.
        history: Loss and validation accuracy per epoch of the student trained alone.
    """

    metric: Metric
    gain: float
    ci95: tuple[float, float]
    discordant: tuple[int, int]
    history: tuple[dict[str, float], ...] = ()


def paired_difference(
    first_correct: NDArray[np.bool_], second_correct: NDArray[np.bool_]
) -> tuple[float, tuple[float, float], tuple[int, int]]:
    """Return how much more often the first is right than the second, judged on the same samples.

    The interval is Wald's for matched pairs after 1/2 is added to each of the four cells of right and wrong, which holds
    its level where the plain one falls short of it (Agresti and Min, Statistics in Medicine 24, 2005).

    Args:
        first_correct: Whether the first is right on each sample, ``[n]``.
        second_correct: The same of the second, for the same samples in the same order.

    Returns:
        The difference in points, its 95 % interval in points, and how many samples only the first and only the second
        has right.

    Raises:
        ValueError: They are not of one length, or empty.
    """
    if first_correct.shape != second_correct.shape or first_correct.ndim != 1 or not len(first_correct):
        raise ValueError(f"{first_correct.shape} and {second_correct.shape} are no judgements of the same samples")
    n = len(first_correct)
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    total = n + 2
    centre = (only_first - only_second) / total
    half = _Z95 * math.sqrt((only_first + only_second + 1) / total - centre**2) / math.sqrt(total)
    interval = (100 * max(-1.0, centre - half), 100 * min(1.0, centre + half))
    return 100 * (only_first - only_second) / n, interval, (only_first, only_second)


def verdict(control: Control) -> str:
    """Return in a sentence what distillation brought, for example ``distillation helped: +2.1 points (1.3 to 2.9)``."""
    low, high = control.ci95
    if low > 0:
        said = "distillation helped"
    elif high < 0:
        said = "distillation hurt"
    else:
        said = "distillation made no difference beyond chance"
    # A bound that is not 0 must not look like 0, or the sentence and its numbers disagree.
    digits = next((each for each in (1, 2, 3) if all(round(bound, each) or not bound for bound in (low, high))), 4)
    return f"{said}: {control.gain:+z.{digits}f} points ({low:z.{digits}f} to {high:z.{digits}f})"
