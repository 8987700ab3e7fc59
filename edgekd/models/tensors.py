"""What a model takes and gives: named, typed inputs and outputs. Free of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output of a model.

    Attributes:
        name: For example ``image`` or ``logits``.
        dtype: For example ``float32``.
        shape: Without the batch, in the order that ``layout`` tells: ``(1, 8, 8)`` for CHW.
        layout: ``NCHW`` or ``NHWC`` for images, ``NC`` for one vector per sample.
        meaning: What the numbers are.
        value_range: What raw data is scaled to before normalisation.
        mean, std: Per channel: the model takes ``(x - mean) / std``.
        labels: Class names of an output, in index order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: Literal["NCHW", "NHWC", "NC"]
    meaning: Literal["image", "logits"]
    value_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ModelSpec:
    """Enough to rebuild a network: ``reference`` is ``zoo:NAME``; inputs and outputs are in calling order."""

    reference: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain data."""
        return asdict(self)


def spec_from_json(content: dict[str, Any]) -> ModelSpec:
    """Return the spec that :meth:`ModelSpec.to_json` wrote."""

    def tensor(each: dict[str, Any]) -> TensorSpec:
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in each.items()}
        return TensorSpec(**values)

    return ModelSpec(content["reference"], tuple(map(tensor, content["inputs"])), tuple(map(tensor, content["outputs"])))


def image_classifier(reference: str, image_shape: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...],
                     labels: tuple[str, ...]) -> ModelSpec:  # fmt: skip
    """Return the spec of a network from normalised images to one logit per class.

    Args:
        reference: ``zoo:NAME``.
        image_shape: Height, width, channels.
        mean, std: Per channel, of pixels scaled to [0, 1].
        labels: Class names.
    """
    height, width, channels = image_shape
    image = TensorSpec("image", "float32", (channels, height, width), "NCHW", "image", (0.0, 1.0), mean, std)
    logits = TensorSpec("logits", "float32", (len(labels),), "NC", "logits", labels=labels)
    return ModelSpec(reference, (image,), (logits,))
