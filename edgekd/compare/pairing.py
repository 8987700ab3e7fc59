"""Which layer of one model is which of another: by shape, by order of execution, and by what they give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.parity import decibels, relative

_POSITIONS = 4096
_CLOSENESS = 0.1
_ANY = 0.01
_PERMUTATIONS: dict[int, tuple[tuple[int, ...], ...]] = {2: ((0, 1), (1, 0)), 3: ((0, 1, 2), (1, 2, 0), (2, 0, 1))}
"""Of all axes but the samples': as they are, channels to the end, channels to the front."""


@dataclass(frozen=True)
class Pair:
    """Two layers that are taken for the same.

    Attributes:
        a, b: Indices of the activations.
        correlation: Pearson's, of a sample of their values.
        sqnr_db: Power of A over the power of the difference, in dB.
        max_error: Largest difference, as a share of the range of A.
    """

    a: int
    b: int
    correlation: float
    sqnr_db: float
    max_error: float


def pair_layers(a: list[Path], b: list[Path]) -> list[Pair]:
    """Pair activations of B with those of A, both in order of execution.

    Candidates have the same shape, up to size-1 axes and the place of the channels. Of all assignments that keep the order
    (several of B may share one of A: a tensor and its quantized copies), the one with the highest sum of correlations is taken;
    of equally correlated candidates the closer one counts for more, so that a layer is not taken for a multiple of it.

    Args:
        a, b: ``.npy`` files, ``float32 [n, ...]``; of different numbers of samples the first that both have are compared.
    """
    if not a or not b:
        return []
    first, second = [np.load(each, mmap_mode="r") for each in a], [np.load(each, mmap_mode="r") for each in b]
    rows = min(len(first[0]), len(second[0]))
    left, right = [_squeezed(each[:rows]) for each in first], [_squeezed(each[:rows]) for each in second]
    scores, correlations, orders = _scores(left, right)
    return [
        _measured(left[i].transpose(0, *(axis + 1 for axis in orders[i, j])) if orders[i, j] else left[i], right[j],
                  i, j, float(correlations[i, j]))
        for j, i in _monotone(scores)
    ]  # fmt: skip


def _squeezed(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(len(values), *(size for size in values.shape[1:] if size > 1))


def _orders(shape: tuple[int, ...], wanted: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the permutations of axes that bring ``shape`` to ``wanted``."""
    for order in _PERMUTATIONS.get(len(shape), (tuple(range(len(shape))),)):
        if len(shape) == len(wanted) and tuple(shape[axis] for axis in order) == wanted:
            yield order


def _scores(
    left: list[NDArray[Any]], right: list[NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[tuple[int, int], tuple[int, ...]]]:
    """Return how well each of ``left`` matches each of ``right``, -1 for another shape, with which permutation of axes."""
    scores = np.full((len(left), len(right)), -1.0)
    correlations = np.zeros_like(scores)
    orders: dict[tuple[int, int], tuple[int, ...]] = {}
    drawn: dict[tuple[int, tuple[int, ...]], NDArray[np.float64]] = {}

    def draw(values: NDArray[Any]) -> NDArray[np.float64]:
        flat = values.reshape(-1)
        if len(flat) > _POSITIONS:
            flat = flat[np.random.default_rng(len(flat)).choice(len(flat), _POSITIONS, replace=False)]
        return np.nan_to_num(np.asarray(flat, np.float64), posinf=0.0, neginf=0.0)

    for j, other in enumerate(right):
        seen = None
        for i, own in enumerate(left):
            for order in _orders(own.shape[1:], other.shape[1:]):
                seen = draw(other) if seen is None else seen
                if (i, order) not in drawn:
                    drawn[i, order] = draw(own.transpose(0, *(axis + 1 for axis in order)))
                correlation, score = _likeness(drawn[i, order], seen)
                if score > scores[i, j]:
                    scores[i, j], correlations[i, j], orders[i, j] = score, correlation, order
    return scores, correlations, orders


def _likeness(own: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float]:
    """Return the correlation of two samples and their score: every pair of one shape counts for a little."""
    one, two = own - own.mean(), other - other.mean()
    size = float(np.linalg.norm(one) * np.linalg.norm(two))
    correlation = float(one @ two / size) if size else 0.0
    power = float(own @ own + other @ other)
    closeness = 2 * float(own @ other) / power if power else 1.0
    return correlation, max(correlation, 0.0) + _CLOSENESS * max(closeness, 0.0) + _ANY


def _monotone(scores: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return pairs of column and row, both not falling, whose scores have the highest sum; negative ones are no pair."""
    rows, columns = scores.shape
    best = np.zeros((columns + 1, rows))
    """Highest sum of the first columns whose last pair has this row or an earlier one."""
    for column in range(columns):
        here = scores[:, column]
        taken = np.where(here > 0, best[column] + here, -np.inf)
        best[column + 1] = np.maximum.accumulate(np.maximum(best[column], taken))
    pairs = []
    row = rows - 1
    for column in range(columns - 1, -1, -1):
        total = best[column + 1][row]
        here = scores[: row + 1, column]
        if best[column][row] >= total:
            continue
        row = int(np.flatnonzero((here > 0) & np.isclose(best[column][: row + 1] + here, total, rtol=0, atol=1e-9))[0])
        pairs.append((column, row))
    return pairs[::-1]


def _measured(own: NDArray[Any], other: NDArray[Any], i: int, j: int, correlation: float) -> Pair:
    one, two = np.asarray(own, np.float64), np.asarray(other, np.float64)
    difference = one - two
    with np.errstate(invalid="ignore", over="ignore"):
        noise = float(np.square(difference).mean())
        signal = float(np.square(one).mean())
        worst = float(np.abs(difference).max())
    if not np.isfinite(noise):
        return Pair(i, j, correlation, -200.0, float("inf"))
    return Pair(i, j, correlation, decibels(signal, noise), relative(worst, own))
