"""Mixup and cutmix: training images of two samples in one, a pure function of (seed, epoch, step)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MIXING = 0x6D697869  # "mixi": keeps this stream apart from the others


@dataclass(frozen=True)
class Mixing:
    """How the samples of one batch are mixed.

    Attributes:
        partner: Position in the batch of the sample that each one is mixed with.
        share: What is left of the sample itself, 0 to 1.
        box: Top, bottom, left and right of the patch that comes from the partner; ``None``: all pixels are blended.
    """

    partner: NDArray[np.int64]
    share: float
    box: tuple[int, int, int, int] | None


def draw_mixing(
    count: int, size: tuple[int, int], mixup: float, cutmix: float, seed: int, epoch: int, step: int
) -> Mixing | None:
    """Return how to mix a batch of ``count`` images of ``size`` (height, width); ``None`` if both alphas are 0.

    The share is drawn from Beta(alpha, alpha), one for the batch (Zhang et al., 2018, mixup; Yun et al., 2019, cutmix).
    A patch is cut off at the border, and the share is then that of the pixels.
    """
    if not mixup and not cutmix:
        return None
    random = np.random.default_rng([_MIXING, seed, epoch, step])
    partner = random.permutation(count)
    share = float(random.beta(mixup or cutmix, mixup or cutmix))
    if mixup:
        return Mixing(partner, share, None)
    height, width = size
    side = np.sqrt(1 - share)
    row, column = int(random.integers(height)), int(random.integers(width))
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    left, right = max(column - half_width, 0), min(column + half_width, width)
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return Mixing(partner, float(kept), (top, bottom, left, right))


def mix_images(images: NDArray[np.float32], partners: NDArray[np.float32], mixing: Mixing) -> NDArray[np.float32]:
    """Return ``images`` ``[n, channels, height, width]`` mixed with those of their partners."""
    if mixing.box is None:
        share = np.float32(mixing.share)
        return share * images + (np.float32(1) - share) * partners
    top, bottom, left, right = mixing.box
    mixed = images.copy()
    mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return mixed


def mix_targets(labels: NDArray[np.int64], mixing: Mixing, classes: int) -> NDArray[np.float32]:
    """Return the share of each class in each mixed sample, ``float32 [n, classes]``."""
    shares = np.zeros((len(labels), classes), np.float32)
    rows = np.arange(len(labels))
    np.add.at(shares, (rows, labels), np.float32(mixing.share))
    np.add.at(shares, (rows, labels[mixing.partner]), np.float32(1 - mixing.share))
    return shares
