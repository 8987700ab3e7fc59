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
    """Return randomly cropped and mirrored copies of ``images``, in memory with their channels last.

    Args:
        images: Normalised, ``float32 [batch, channels, height, width]``.
        indices: The index of each image in the data set.
        options: What to do. Padding before the crop is with 0, the mean of normalised images.
        seed: The recipe's seed.
        epoch: Epoch, from 0.
    """
    if not options.crop_padding and not options.flip:
        return images
    count, channels, height, width = images.shape
    tops = lefts = np.zeros(count, np.int64)
    mirrored = np.zeros(count, bool)
    padded, padding = images.transpose(0, 2, 3, 1), options.crop_padding
    if padding:
        padded = np.zeros((count, height + 2 * padding, width + 2 * padding, channels), images.dtype)
        padded[:, padding : padding + height, padding : padding + width] = images.transpose(0, 2, 3, 1)
        choices = np.uint64(2 * padding + 1)
        tops = (random_bits(seed, epoch, indices, _CROP_ROW) % choices).astype(np.int64)
        lefts = (random_bits(seed, epoch, indices, _CROP_COLUMN) % choices).astype(np.int64)
    if options.flip:
        mirrored = (random_bits(seed, epoch, indices, _FLIP) >> np.uint64(63)).astype(bool)
    made = np.empty((count, height, width, channels), images.dtype)
    # Slices image by image copy whole rows of pixels: faster than one index for each value.
    for place, (top, left, mirror) in enumerate(zip(tops.tolist(), lefts.tolist(), mirrored.tolist(), strict=True)):
        crop = padded[place, top : top + height, left : left + width]
        made[place] = crop[:, ::-1] if mirror else crop
    return made.transpose(0, 3, 1, 2)
