"""Classification: top-1 accuracy with its confidence interval, and agreement between two models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Metric:
    """A share measured on a sample.

    Attributes:
        name: ``top1``.
        value: Share of samples, 0 to 1.
        ci95: 95 % Wilson score interval of it.
        n: Sample size.
    """

    name: str
    value: float
    ci95: tuple[float, float]
    n: int


def top1(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Metric:
    """Return the share of rows whose largest logit is at the label.

    Args:
        logits: ``[n, classes]``.
        labels: ``[n]``.
    """
    return proportion("top1", int((logits.argmax(1) == labels).sum()), len(labels))


def proportion(name: str, successes: int, n: int) -> Metric:
    """Return ``successes / n`` with its 95 % Wilson score interval (Wilson, 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return Metric(name, successes / n, (float(interval.low), float(interval.high)), n)


def agreement(logits: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Return the share of rows where both have their largest logit at the same class."""
    return float((logits.argmax(1) == others.argmax(1)).mean())
