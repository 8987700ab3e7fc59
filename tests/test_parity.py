"""Numbers of parity against their definitions, and what each of them sees that the others do not."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekd.parity import cosine, decibels, gain, measure_parity, relative, worst_output_sqnr


def _logits(n: int = 400, outputs: int = 10) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 4, (n, outputs)).astype(np.float32)


def test_equal_outputs_are_equal() -> None:
    logits = _logits()
    found = measure_parity(logits, logits, (logits[:5], logits[:5]))
    assert (found.max_abs_error, found.relative_error, found.mean_abs_error, found.extreme_error) == (0, 0, 0, 0)
    assert (found.agreement, found.n, found.sqnr_db) == (1, 400, 200)
    assert found.gain == pytest.approx(1)
    assert cosine(logits, logits) == pytest.approx(1)


def test_errors_are_those_of_the_largest_and_mean_difference() -> None:
    logits = _logits()
    other = logits.copy()
    other[7, 3] += 2
    found = measure_parity(other, logits)
    assert found.max_abs_error == pytest.approx(2)
    assert found.relative_error == pytest.approx(2 / np.ptp(logits), rel=1e-6)
    assert found.mean_abs_error == pytest.approx(2 / logits.size, rel=1e-5)
    assert found.extreme_error is None


@pytest.mark.parametrize("noise_db", [10.0, 30.0])
def test_noise_of_a_known_power_is_measured(noise_db: float) -> None:
    logits = _logits(20_000, 4)
    noise = np.random.default_rng(1).normal(0, 4 * 10 ** (-noise_db / 20), logits.shape).astype(np.float32)
    assert worst_output_sqnr(logits + noise, logits) == pytest.approx(noise_db, abs=0.3)
    assert gain(logits + noise, logits) == pytest.approx(1, abs=0.01)


def test_one_lost_output_among_a_thousand_shows() -> None:
    logits = _logits(300, 1000)
    lost = logits.copy()
    lost[:, 17] = 0
    found = measure_parity(lost, logits)
    assert found.agreement > 0.99
    assert found.sqnr_db == pytest.approx(0, abs=1)


def test_scale_and_offset_are_told_apart_where_top_1_sees_neither() -> None:
    logits = _logits()
    scaled, moved = measure_parity(logits * np.float32(2), logits), measure_parity(logits + np.float32(1), logits)
    assert scaled.agreement == moved.agreement == 1
    assert scaled.gain == pytest.approx(2)
    assert moved.gain == pytest.approx(1)
    assert moved.offset == pytest.approx(1 / np.ptp(logits), rel=1e-3)
    assert abs(scaled.offset) < 0.01


def test_nothing_to_compare_with_is_still_a_number() -> None:
    flat = np.full((5, 2), 3, np.float32)
    assert relative(0.3, flat) == pytest.approx(0.1)
    assert relative(0.3, np.zeros((5, 2), np.float32)) == pytest.approx(0.3)
    assert gain(flat, flat) == 1
    assert worst_output_sqnr(flat + 1, flat) == -200
    assert (decibels(1, 0), decibels(0, 1), decibels(100, 1)) == (200, -200, 20)
    assert cosine(flat * 0, flat * 0) == 1
    assert cosine(flat * 0, flat) == 0
