"""Which training images set the ranges of an int8 model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def calibration_indices(train: NDArray[np.int64], labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Return ``count`` training indices (all, if there are fewer), taken in turn from every class.

    Args:
        train: Indices of the training split; validation and test images never calibrate.
        labels: Class index of every image of the data set.
        count: How many.
        seed: Decides which.
    """
    shuffled = np.random.default_rng([seed, len(train)]).permutation(train)
    rank = np.empty(len(shuffled), np.int64)
    for label in np.unique(labels[shuffled]):
        members = np.flatnonzero(labels[shuffled] == label)
        rank[members] = np.arange(len(members))
    return np.sort(shuffled[np.argsort(rank, kind="stable")][:count])
