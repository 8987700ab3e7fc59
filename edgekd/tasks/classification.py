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


def expected_calibration_error(logits: NDArray[np.float32], labels: NDArray[np.int64], bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy over bins of equal width, weighted by samples (Guo et al., 2017).

    Args:
        logits: ``[n, classes]``.
        labels: ``[n]``.
        bins: Number of bins of the confidence, over [0, 1].
    """
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    confidence = 1 / np.exp(shifted).sum(1)  # the largest probability: its shifted logit is 0
    right = logits.argmax(1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
