"""Metric and interval against Wilson's closed form."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.tasks.classification import agreement, proportion, top1


@given(st.integers(1, 5000), st.floats(0, 1))
def test_interval_is_wilsons(n: int, share: float) -> None:
    k = round(n * share)
    z, p = 1.959963984540054, k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    metric = proportion("top1", k, n)
    assert metric.ci95[0] == pytest.approx(max(0.0, centre - half), abs=1e-9)
    assert metric.ci95[1] == pytest.approx(min(1.0, centre + half), abs=1e-9)
    assert metric.ci95[0] <= metric.value <= metric.ci95[1]


def test_top1_and_agreement_count_rows() -> None:
    logits = np.eye(4, dtype=np.float32)
    assert top1(logits, np.array([0, 1, 2, 0])).value == 0.75
    assert agreement(logits, logits[::-1] + 0) == 0.0
    assert agreement(logits, logits * 3 - 1) == 1.0
