"""How far one model's outputs are from another's: the numbers that gates and comparisons judge by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.tasks.classification import agreement

_MOST_DB = 200.0
"""What equal signals get, for JSON has no infinity."""


@dataclass(frozen=True)
class Parity:
    """How far an artifact is from the PyTorch student on the test split.

    Attributes:
        max_abs_error: Largest difference of any output.
        relative_error: That, as a share of the range of the PyTorch student's outputs.
        agreement: Share of samples with the same top-1 class.
        n: Number of samples.
        mean_abs_error: Mean difference over all outputs.
        sqnr_db: Signal-to-noise ratio of the worst output in dB, see :func:`worst_output_sqnr`.
        gain: What the outputs are scaled by, see :func:`gain`.
        offset: What is added to all outputs alike, as a share of the range of the PyTorch student's outputs.
        extreme_error: Largest difference on extreme inputs, as a share of the range of the PyTorch student's outputs there,
            see :mod:`edgekd.extremes`; ``None``: not measured.
    """

    max_abs_error: float
    relative_error: float
    agreement: float
    n: int
    mean_abs_error: float = 0.0
    sqnr_db: float = _MOST_DB
    gain: float = 1.0
    offset: float = 0.0
    extreme_error: float | None = None


def measure_parity(
    outputs: NDArray[np.float32], reference: NDArray[np.float32],
    extremes: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> Parity:  # fmt: skip
    """Compare outputs with those of the reference on the same samples, ``[n, outputs]`` each.

    Args:
        outputs: Of the model that is judged; finite.
        reference: Of the model it should equal; finite.
        extremes: The same pair on extreme inputs.
    """
    signed = outputs.astype(np.float64) - reference
    difference = np.abs(signed)
    worst = float(difference.max())
    return Parity(
        worst, relative(worst, reference), agreement(outputs, reference), len(outputs), float(difference.mean()),
        worst_output_sqnr(outputs, reference), gain(outputs, reference), relative(float(signed.mean()), reference),
        None if extremes is None else relative(float(np.abs(extremes[0].astype(np.float64) - extremes[1]).max()), extremes[1]),
    )  # fmt: skip


def relative(error: float, reference: NDArray[np.float32]) -> float:
    """Return ``error`` as a share of the range of ``reference``; where that is one value only, of its size, or of 1."""
    span = float(np.ptp(reference)) or float(np.abs(reference).max()) or 1.0
    return error / span


def decibels(signal: float, noise: float) -> float:
    """Return the ratio of two powers in dB, between -200 and 200."""
    if noise <= 0:
        return _MOST_DB
    if signal <= 0:
        return -_MOST_DB
    return float(np.clip(10 * np.log10(signal / noise), -_MOST_DB, _MOST_DB))


def worst_output_sqnr(outputs: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the signal-to-quantization-noise ratio of the worst output (class) in dB.

    The signal is the variance of the reference's outputs over samples, averaged over outputs; the noise is the mean square of
    the difference of one output, its constant part included. 10 dB is a noise of a tenth of the signal. One output that is
    dropped, swapped or constant gives about 0 dB, however many others there are and whatever becomes of top-1.
    """
    signal = float(reference.var(0, dtype=np.float64).mean())
    noise = np.square(outputs.astype(np.float64) - reference).mean(0)
    return decibels(signal, float(noise.max()))


def gain(outputs: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the factor that makes the reference's outputs most like ``outputs``: the least-squares slope about the means.

    Rounding leaves it at 1. A wrong scale, a second softmax or ranges that cut off what is strong move it, though top-1 may
    stay as it was. 1 where the reference's outputs do not vary.
    """
    centred = reference - reference.mean(0, dtype=np.float64)
    power = float(np.square(centred).sum())
    return float((centred * (outputs - outputs.mean(0, dtype=np.float64))).sum() / power) if power else 1.0


def cosine(outputs: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the cosine of the angle between all outputs and all of the reference's; 1 where both are zero."""
    first, second = outputs.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    if not size:
        return 1.0 if not first.any() and not second.any() else 0.0
    return float(first @ second / size)
