"""Whether a teacher knows the classes by another order than the data: its outputs are right, under wrong names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.tasks.classification import Metric, proportion

_POINTS = 0.20
_P_VALUE = 1e-6


@dataclass(frozen=True)
class Reordering:
    """What a teacher would be with its outputs in another order.

    Attributes:
        metric: Accuracy in that order, on samples that the order was not chosen by.
        p_value: Chance to be so much better than in the given order by luck, of a one-sided sign test on the samples that
            only one of the two orders has right (McNemar, 1947).
        order: ``order[i]`` is the class that output ``i`` stands for, ``int64 [classes]``.
        mixed: Outputs that stand for another class than the one they are at, those with most samples first.
    """

    metric: Metric
    p_value: float
    order: NDArray[np.int64]
    mixed: tuple[int, ...]


def find_reordering(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Reordering | None:
    """Return the order of outputs that suits ``labels`` best, if it beats the given one by far more than luck.

    The best order of a confusion matrix always looks better than the given one, and much better where samples are few
    and classes many. So it is chosen on one half of the samples and judged on the other, and the other way round.

    Args:
        logits: ``[n, classes]``, of samples that nothing was trained on.
        labels: ``[n]``.

    Returns:
        ``None`` unless it is more than 20 points better, p < 1e-6, surely above the share of the most frequent class, and at
        least halfway from there to certainty: outputs that merely fall into groups agree with some order of the classes too.
    """
    from scipy.stats import binomtest

    n, classes = logits.shape
    predicted = logits.argmax(1)
    right = predicted == labels
    # No order can be right more often than all outputs are at their most frequent class: good teachers end here.
    pairs, counts = np.unique(predicted * classes + labels, return_counts=True)
    most = np.zeros(classes, np.int64)
    np.maximum.at(most, pairs // classes, counts)
    if most.sum() - right.sum() <= _POINTS * n:
        return None
    reordered = np.zeros(n, np.bool_)
    half = _alternate(labels)
    for chosen, judged in ((half, ~half), (~half, half)):
        order = _best_order(predicted[chosen], labels[chosen], classes)
        reordered[judged] = order[predicted[judged]] == labels[judged]
    better, worse = int((reordered & ~right).sum()), int((right & ~reordered).sum())
    metric = proportion("top1", int(reordered.sum()), n)
    chance = np.bincount(labels).max() / n
    if better - worse <= _POINTS * n or metric.value < (1 + chance) / 2 or metric.ci95[0] <= chance:
        return None
    p_value = float(binomtest(better, better + worse, 0.5, alternative="greater").pvalue)
    if p_value >= _P_VALUE:
        return None
    order = _best_order(predicted, labels, classes)
    seen = np.bincount(predicted[order[predicted] == labels], minlength=classes)
    mixed = [index for index in np.argsort(-seen, kind="stable") if order[index] != index and seen[index]]
    return Reordering(metric, p_value, order, tuple(map(int, mixed)))


def _alternate(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return a half of the samples that has every second one of each class."""
    half = np.zeros(len(labels), np.bool_)
    half[np.argsort(labels, kind="stable")[::2]] = True
    return half


def _best_order(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Return the class of each output that makes most samples right; where samples do not tell, the given one."""
    from scipy.optimize import linear_sum_assignment

    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (predicted, labels), 1)
    # All of the diagonal together outweighs no sample.
    confusion[np.diag_indices(classes)] += 1 / (2 * classes)
    order: NDArray[np.int64] = linear_sum_assignment(confusion, maximize=True)[1]
    return order
