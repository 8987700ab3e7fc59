"""How samples are normalised where the recipe says so, for a student that was trained elsewhere."""

from __future__ import annotations

from dataclasses import replace

from edgekd.errors import UsageError
from edgekd.models.tensors import TensorSpec
from edgekd.recipe import Normalisation


def as_the_student_takes(wanted: Normalisation, inputs: tuple[TensorSpec, ...], source: str) -> tuple[TensorSpec, ...]:
    """Return ``inputs`` with mean and standard deviation as ``student.preprocess`` wants them.

    Images are scaled to [0, 1] wherever they come from; another range is the same as another mean and deviation there:
    ``(x * (high - low) + low - mean) / std``.

    Args:
        wanted: ``student.preprocess``.
        inputs: As the training split's statistics have them.
        source: ``data.source``, for messages.

    Raises:
        UsageError: The data is not normalised at all, or has another number of channels.
    """
    if not wanted.is_set:
        return inputs
    first = inputs[0]
    if first.meaning not in {"image", "features"}:
        raise UsageError(f"student.preprocess is for images and features, {source} has {first.meaning}", "leave it out")
    if first.meaning == "features" and wanted.value_range is not None:
        raise UsageError(
            f"student.preprocess.value_range is for images, {source} has features", "give student.preprocess.mean and std"
        )
    channels = first.shape[0]
    mean = _each(wanted.mean or (0.0,), channels, "mean")
    std = _each(wanted.std or (1.0,), channels, "std")
    low, high = wanted.value_range or (0.0, 1.0)
    span = high - low
    moved = tuple((each - low) / span for each in mean)
    return (replace(first, mean=moved, std=tuple(each / span for each in std)), *inputs[1:])


def _each(values: tuple[float, ...], channels: int, name: str) -> tuple[float, ...]:
    """Return one value for each channel; a single one is for all."""
    if len(values) == 1:
        return values * channels
    if len(values) != channels:
        raise UsageError(
            f"student.preprocess.{name} has {len(values)} values, the data has {channels} channels", f"give {channels}, or one"
        )
    return values
