"""Sample order and augmentation as pure functions of (seed, epoch, index).

Nothing here has state, so a resumed run, another number of workers or a cache of soft targets
sees the same images in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgekd.recipe import Augment

_CROP_ROW, _CROP_COLUMN, _FLIP = 1, 2, 3
_ORDER = 0x6F72646572  # "order": keeps this stream apart from the splits'


def epoch_order(indices: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return ``indices`` in the random order of ``epoch``."""
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(indices)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return how many training steps an epoch has: full batches only, or one of whatever there is."""
    return max(1, count // batch_size)


def batches(
    indices: NDArray[np.int64], batch_size: int, seed: int, epoch: int, first_step: int = 0
) -> Iterator[NDArray[np.int64]]:
    """Yield the index batches of ``epoch`` from step ``first_step`` on. The incomplete last batch is left out."""
    order = epoch_order(indices, seed, epoch)
    for step in range(first_step, steps_per_epoch(len(order), batch_size)):
        yield order[step * batch_size : (step + 1) * batch_size]


def random_bits(seed: int, epoch: int, indices: NDArray[np.int64], purpose: int) -> NDArray[np.uint64]:
    """Return 64 random bits per index, a pure function of all four arguments.

    A counter hashed by the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), once per argument.
    """
    with np.errstate(over="ignore"):
        bits = np.full(len(indices), seed, np.uint64)
        for part in (epoch, purpose, indices.astype(np.uint64)):
            bits = _mix(bits + np.uint64(0x9E3779B97F4A7C15) + np.asarray(part, np.uint64))
    return bits


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def augment(
    images: NDArray[np.float32], indices: NDArray[np.int64], options: Augment, seed: int, epoch: int
) -> NDArray[np.float32]:
    """Return randomly cropped and mirrored copies of ``images``.

    Args:
        images: Normalised, ``float32 [batch, channels, height, width]``.
        indices: The index of each image in the data set.
        options: What to do. Padding before the crop is with 0, the mean of normalised images.
        seed: The recipe's seed.
        epoch: Epoch, from 0.
    """
    count, channels, height, width = images.shape
    padding = options.crop_padding
    rows = np.broadcast_to(np.arange(height), (count, height))
    columns = np.broadcast_to(np.arange(width), (count, width))
    if padding:
        images = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        choices = np.uint64(2 * padding + 1)
        rows = rows + (random_bits(seed, epoch, indices, _CROP_ROW) % choices).astype(np.int64)[:, None]
        columns = columns + (random_bits(seed, epoch, indices, _CROP_COLUMN) % choices).astype(np.int64)[:, None]
    if options.flip:
        mirrored = (random_bits(seed, epoch, indices, _FLIP) >> np.uint64(63)).astype(bool)
        columns = np.where(mirrored[:, None], columns[:, ::-1], columns)
    if not padding and not options.flip:
        return images
    return images[
        np.arange(count)[:, None, None, None],
        np.arange(channels)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
