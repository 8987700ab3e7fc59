"""One batch of a training, as losses see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Samples of one training step. Under several processes, each holds the inputs of its share alone.

    Attributes:
        indices: Of all samples in the data set, ``int64 [n]``.
        epoch: From 0.
        progress: Share of the training that is done, 0 to 1.
        augmentation: Key of the random augmentation the samples have: the epoch, or less where augmentations come back.
        inputs: What the student takes, by name, of this process's share.
        target: True classes ``[n]``, or where samples are mixed the share of each class ``[n, classes]``.
    """

    indices: NDArray[np.int64]
    epoch: int
    progress: float
    augmentation: int
    inputs: dict[str, Tensor]
    target: Tensor
