"""From what a tensor's values were to the range that int8 steps cover: min-max, percentile, least squares, entropy.

A wide range cuts nothing off and has coarse steps, a narrow one is fine and cuts off what is strong. All methods take a
histogram and return a range within the least and the largest value that contains 0, for padding and ReLU give exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgekd.quantize.histogram import Histogram
from edgekd.quantize.range_file import Ranges

RangeMethod = Literal["minmax", "percentile", "mse", "entropy"]
RANGE_METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)
PERCENTILE = 99.99
"""Share of values that a percentile range covers, in percent; half of the rest is cut off at either end."""

_STEPS = 255
"""Between the first and the last value of 8 bits."""
_SHRINKS = np.linspace(0.05, 1, 96)
"""How far a range may be shrunk to find the least error, as shares of the whole one."""
_ROUNDS = 2
_COARSE = 2048
"""Bins on either side of zero that the entropy is computed on."""
_THRESHOLDS = 128
"""How many thresholds are tried for the least divergence."""


def ranges_by(
    method: RangeMethod, histograms: Mapping[str, Histogram], symmetric: bool = False, whole: Collection[str] = ()
) -> Ranges:  # fmt: skip
    """Return the range of every tensor.

    Args:
        method: ``minmax``: all that was seen. ``percentile``: 99.99 % of it. ``mse``: where the mean squared error of rounding
            and cutting off is least. ``entropy``: where the distribution loses the least information (Migacz, 2017).
        histograms: What was seen, by tensor.
        symmetric: Whether the range will be widened to be symmetric about 0, as TensorRT has it.
        whole: Tensors that keep all that was seen: a network's outputs, for the strongest are the surest.
    """
    compute = _METHODS[method]
    return {name: (minmax if name in whole else compute)(each, symmetric) for name, each in histograms.items()}


def minmax(histogram: Histogram, symmetric: bool = False) -> tuple[float, float]:
    """Return the least and the largest value, and 0."""
    return min(histogram.low, 0.0), max(histogram.high, 0.0)


def percentile(histogram: Histogram, symmetric: bool = False) -> tuple[float, float]:
    """Return what covers :data:`PERCENTILE` percent of the values."""
    counts, edges = _with_zeros(histogram)
    total = counts.sum()
    if not total:
        return 0.0, 0.0
    cut = (1 - PERCENTILE / 100) / 2 * total
    below = np.concatenate([[0], np.cumsum(counts)])
    low, high = np.interp([cut, total - cut], below, edges)
    return _within(histogram, float(low), float(high))


def mse(histogram: Histogram, symmetric: bool = False) -> tuple[float, float]:
    """Return the range with the least mean squared error, found end by end in steps of a hundredth."""
    low, high = minmax(histogram)
    if low == high:
        return low, high
    error = _squared_error(histogram)
    ends = np.array([low, high])
    shares = np.ones(2)
    if symmetric:
        bound = max(-low, high) * _SHRINKS
        bound = bound[np.argmin(error(-bound, bound, _STEPS - 1))]
        return _within(histogram, -float(bound), float(bound))
    for _ in range(_ROUNDS):
        for end in (0, 1):
            if ends[end] == 0:
                continue
            tried = np.repeat(shares[None], len(_SHRINKS), 0)
            tried[:, end] = _SHRINKS
            lows, highs = (tried * ends).T
            shares = tried[np.argmin(error(lows, highs, _STEPS))]
    return _within(histogram, *(shares * ends).tolist())


def entropy(histogram: Histogram, symmetric: bool = False) -> tuple[float, float]:
    """Return the range, cut at one threshold on both sides, whose 8-bit distribution diverges least from the true one."""
    counts, width = _around_zero(histogram)
    half = len(counts) // 2
    least = (_STEPS + 1) // 2
    if half <= least:
        return minmax(histogram)
    thresholds = np.unique(np.linspace(least, half, _THRESHOLDS).astype(int))
    divergences = [_divergence(counts, half, each) for each in thresholds.tolist()]
    bound = float(thresholds[int(np.argmin(divergences))] * width)
    return _within(histogram, -bound, bound)


_METHODS: dict[RangeMethod, Callable[[Histogram, bool], tuple[float, float]]] = {
    "minmax": minmax, "percentile": percentile, "mse": mse, "entropy": entropy,
}  # fmt: skip


def _within(histogram: Histogram, low: float, high: float) -> tuple[float, float]:
    least, largest = minmax(histogram)
    return min(max(low, least), 0.0), max(min(high, largest), 0.0)


def _with_zeros(histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return counts and edges with zeros in a bin of no width at 0."""
    edges, counts = histogram.edges, histogram.counts.astype(np.float64)
    place = int(np.searchsorted(edges, 0.0))
    # Every edge is a multiple of the width, so 0 is an edge, or lies outside.
    if place < len(edges) and edges[place] == 0:
        return np.insert(counts, place, histogram.zeros), np.insert(edges, place, 0.0)
    if place == 0:
        return np.concatenate([[histogram.zeros, 0], counts]), np.concatenate([[0.0, 0.0], edges])
    return np.concatenate([counts, [0, histogram.zeros]]), np.concatenate([edges, [0.0, 0.0]])


_Error = Callable[[NDArray[np.float64], NDArray[np.float64], int], NDArray[np.float64]]


def _squared_error(histogram: Histogram) -> _Error:
    """Return a function from ends of ranges, ``[n]`` each, to the sums of squared errors, ``[n]``.

    Values are taken to lie evenly within a bin, which makes the sums over steps narrower than a bin right as well.
    """
    edges, width = histogram.edges, histogram.width
    density = histogram.counts / width
    # Sums of 1, x and x^2 over the values below each edge.
    moments = [np.concatenate([[0], np.cumsum(density * np.diff(edges ** (power + 1)) / (power + 1))]) for power in (0, 1, 2)]
    density = np.append(density, 0)

    def below(x: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        x = np.clip(x, edges[0], edges[-1])
        index = np.clip(np.floor(x / width).astype(np.int64) - histogram.first, 0, len(edges) - 1)
        start = edges[index]
        return [
            moments[power][index] + density[index] * (x ** (power + 1) - start ** (power + 1)) / (power + 1)
            for power in (0, 1, 2)
        ]  # fmt: skip

    def error(low: NDArray[np.float64], high: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
        scale = np.maximum(high - low, 1e-30) / steps
        first = np.round(low / scale)  # the range is moved so that 0 is a step
        centres = (first[:, None] + np.arange(steps + 1)) * scale[:, None]
        borders = centres[:, :-1] + scale[:, None] / 2
        outside = np.repeat([[edges[0], edges[-1]]], len(low), 0)
        cells = [
            np.diff(each, axis=1)
            for each in below(np.concatenate([outside[:, :1], borders, outside[:, 1:]], 1))
        ]  # fmt: skip
        # Zeros are a step: without error.
        errors: NDArray[np.float64] = (cells[2] - 2 * centres * cells[1] + centres**2 * cells[0]).sum(1)
        return errors

    return error


def _around_zero(histogram: Histogram) -> tuple[NDArray[np.float64], float]:
    """Return counts in as many bins above 0 as below, at most :data:`_COARSE` on a side, and their width."""
    edges, counts = histogram.edges, histogram.counts.astype(np.float64)
    reach = max(-histogram.first, histogram.first + len(counts), 1)
    merged = 1
    while reach > _COARSE * merged:
        merged *= 2
    half = -(-reach // merged)
    wide = np.zeros(2 * half * merged)
    start = half * merged + histogram.first
    wide[start : start + len(counts)] = counts
    return wide.reshape(-1, merged).sum(1), histogram.width * merged if len(edges) > 1 else 1.0


def _divergence(counts: NDArray[np.float64], half: int, threshold: int) -> float:
    """Return the Kullback-Leibler divergence of the distribution in 256 steps from that cut off at ``threshold`` bins."""
    inside = counts[half - threshold : half + threshold]
    true = inside.copy()
    true[0] += counts[: half - threshold].sum()
    true[-1] += counts[half + threshold :].sum()
    step = np.arange(len(inside)) * (_STEPS + 1) // len(inside)
    filled = true > 0
    members = np.bincount(step, filled, _STEPS + 1)
    sums = np.bincount(step, inside, _STEPS + 1)
    quantized = np.where(filled, (sums / np.maximum(members, 1))[step], 0.0)
    if not quantized.any():
        return np.inf
    p, q = true / true.sum(), quantized / quantized.sum()
    some = p > 0
    if (q[some] == 0).any():
        # Only what was cut off lies there: a step that the quantized distribution would never take.
        q = np.where(some & (q == 0), 1e-12, q)
    return float((p[some] * np.log(p[some] / q[some])).sum())
