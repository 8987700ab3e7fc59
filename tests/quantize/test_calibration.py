"""Calibration images: from the training split only, evenly from every class."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgekd.quantize.calibration import calibration_order

LABELS = np.repeat(np.arange(5), [100, 3, 40, 40, 17])
TRAIN = np.sort(np.random.default_rng(0).permutation(200)[:150])


@given(st.integers(1, 300), st.integers(0, 100))
def test_classes_take_turns(count: int, seed: int) -> None:
    chosen = calibration_order(TRAIN, LABELS, seed)[:count]
    assert len(chosen) == len(set(chosen.tolist())) == min(count, 150)
    assert set(chosen.tolist()) <= set(TRAIN.tolist())
    taken, available = (np.bincount(LABELS[part], minlength=5) for part in (chosen, TRAIN))
    unfinished = taken[taken < available]
    assert len(unfinished) == 0 or unfinished.max() - unfinished.min() <= 1
    assert len(unfinished) == 0 or taken.max() <= unfinished.max() + 1
    assert np.array_equal(chosen, calibration_order(TRAIN, LABELS, seed)[:count])
