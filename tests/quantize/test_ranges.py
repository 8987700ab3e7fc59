"""Ranges from histograms, against brute force over the values themselves and closed forms."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from edgekd.quantize.histogram import Gathering, Histogram, load_histograms, save_histograms
from edgekd.quantize.ranges import RANGE_METHODS, RangeMethod, entropy, minmax, mse, percentile, ranges_by

GENERATOR = np.random.default_rng(0)
SHAPES: dict[str, NDArray[np.float32]] = {
    "normal": GENERATOR.normal(0.3, 1, 40_000).astype(np.float32),
    "relu": np.maximum(GENERATOR.normal(-0.5, 2, 40_000), 0).astype(np.float32),
    "outliers": np.concatenate([GENERATOR.laplace(0, 0.2, 40_000), [30, -12]]).astype(np.float32),
    "negative": -GENERATOR.gamma(2, 1, 40_000).astype(np.float32),
    "far from zero": GENERATOR.normal(100, 1, 40_000).astype(np.float32),
    "skewed": GENERATOR.lognormal(0, 1.5, 40_000).astype(np.float32),
}


def _histogram(*parts: NDArray[np.float32]) -> Histogram:
    gathering = Gathering()
    for each in parts:
        gathering.add(each)
    return gathering.result()


def _error(values: NDArray[np.float32], low: float, high: float, steps: int = 255) -> float:
    scale = (high - low) / steps
    first = np.round(low / scale)
    rounded = np.clip(np.round(values.astype(np.float64) / scale), first, first + steps) * scale
    return float(np.square(values - rounded).mean())


@pytest.mark.parametrize("name", SHAPES)
def test_a_histogram_counts_every_value_whatever_the_order(name: str) -> None:
    values = SHAPES[name]
    whole = _histogram(values)
    ordered = _histogram(*np.array_split(np.sort(values), 7))
    backwards = _histogram(*np.array_split(np.sort(values)[::-1], 13))
    for each in (ordered, backwards):
        assert (each.low, each.high, each.zeros, each.width, each.first) == (
            whole.low, whole.high, whole.zeros, whole.width, whole.first,
        )  # fmt: skip
        assert np.array_equal(each.counts, whole.counts)
    assert (whole.low, whole.high, whole.zeros) == (values.min(), values.max(), (values == 0).sum())
    some = values[values != 0].astype(np.float64)
    expected, _ = np.histogram(some, whole.edges)
    assert np.array_equal(whole.counts, expected)
    assert whole.counts.sum() == len(some)


def test_what_is_not_finite_or_nothing_does_not_count(tmp_path: Path) -> None:
    assert _histogram(np.array([np.nan, -np.inf, 1, 2], np.float32)).low == 1
    nothing = _histogram(np.zeros(5, np.float32))
    for method in RANGE_METHODS:
        assert ranges_by(method, {"x": nothing, "y": _histogram()}) == {"x": (0, 0), "y": (0, 0)}
    save_histograms({"a": nothing, "b/ü": _histogram(SHAPES["relu"])}, tmp_path / "h.npz")
    again = load_histograms(tmp_path / "h.npz")
    assert list(again) == ["a", "b/ü"]
    assert np.array_equal(again["b/ü"].counts, _histogram(SHAPES["relu"]).counts)
    assert again["b/ü"].edges.tolist() == _histogram(SHAPES["relu"]).edges.tolist()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=300), st.sampled_from(RANGE_METHODS), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_range_contains_zero_and_no_more_than_was_seen(values: list[float], method: RangeMethod, symmetric: bool) -> None:
    array = np.array(values, np.float32)
    low, high = ranges_by(method, {"x": _histogram(array)}, symmetric)["x"]
    assert min(array.min(), 0) <= low <= 0 <= high <= max(array.max(), 0)


@pytest.mark.parametrize("name", SHAPES)
def test_a_percentile_cuts_off_its_share_at_either_end(name: str) -> None:
    values, histogram = SHAPES[name], _histogram(SHAPES[name])
    low, high = percentile(histogram)
    cut, width = len(values) * 0.00005, histogram.width  # two values
    if low < 0:
        assert (values < low - width).sum() <= cut <= (values < low + width).sum()
    if high > 0:
        assert (values > high + width).sum() <= cut <= (values > high - width).sum()
    assert (low < 0) == (values.min() < 0)
    assert (high > 0) == (values.max() > 0)


@pytest.mark.parametrize("name", SHAPES)
def test_the_least_squared_error_is_as_brute_force_over_values_finds_it(name: str) -> None:
    values, histogram = SHAPES[name], _histogram(SHAPES[name])
    low, high = minmax(histogram)
    best = min(
        _error(values, low * first, high * second)
        for first in np.linspace(0.02, 1, 50) for second in np.linspace(0.02, 1, 50)
        if low * first < high * second and (first == 1 or low < 0) and (second == 1 or high > 0)
    )  # fmt: skip
    assert _error(values, *mse(histogram)) <= 1.03 * best
    assert _error(values, *mse(histogram)) <= 1.001 * _error(values, low, high)


def test_a_symmetric_range_has_the_least_error_of_symmetric_ones() -> None:
    values = SHAPES["outliers"]
    bound = max(map(abs, mse(_histogram(values), symmetric=True)))
    errors = [_error(values, -each, each, 254) for each in np.linspace(0.3, 30, 300)]
    assert _error(values, -bound, bound, 254) <= 1.03 * min(errors)


@pytest.mark.parametrize("name", ["outliers", "skewed", "normal"])
def test_entropy_is_that_of_scipy_at_every_threshold(name: str) -> None:
    """Against a plain implementation over the values: NumPy's histogram, loops, SciPy's divergence."""
    histogram = _histogram(SHAPES[name])
    values = SHAPES[name][SHAPES[name] != 0].astype(np.float64)
    reach = np.abs(values).max()
    width = histogram.width
    while reach / width > 2048:
        width *= 2
    half = int(np.ceil(max(-np.floor(values.min() / width), np.floor(values.max() / width) + 1)))
    counts, _ = np.histogram(values, np.arange(-half, half + 1) * width)
    divergences = {}
    for threshold in np.unique(np.linspace(128, half, 128).astype(int)).tolist():
        inside = counts[half - threshold : half + threshold].astype(float)
        true = inside.copy()
        true[0] += counts[: half - threshold].sum()
        true[-1] += counts[half + threshold :].sum()
        quantized = np.zeros(len(inside))
        borders = [-(-each * len(inside) // 256) for each in range(257)]
        for start, end in pairwise(borders):
            filled = true[start:end] > 0
            quantized[start:end][filled] = inside[start:end].sum() / max(filled.sum(), 1)
        quantized /= quantized.sum()
        quantized[(true > 0) & (quantized == 0)] = 1e-12
        divergences[threshold] = stats.entropy(true, quantized)
    best = min(divergences, key=lambda each: divergences[each]) * width
    assert entropy(histogram) == pytest.approx((min(max(-best, values.min()), 0), min(best, values.max())))


def test_outliers_are_cut_off_and_outputs_kept_whole() -> None:
    histogram = _histogram(SHAPES["outliers"])
    assert ranges_by("minmax", {"x": histogram})["x"] == (-12, 30)
    methods: tuple[RangeMethod, ...] = ("percentile", "entropy")
    for method in methods:
        low, high = ranges_by(method, {"x": histogram})["x"]
        assert -6 < low < -0.5
        assert 0.5 < high < 6
        assert ranges_by(method, {"x": histogram}, whole={"x"})["x"] == (-12, 30)
