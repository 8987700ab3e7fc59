"""What a model takes and gives: named, typed inputs and outputs. Free of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output of a model.

    Attributes:
        name: For example ``image`` or ``logits``.
        dtype: For example ``float32``.
        shape: Without the batch, in the order that ``layout`` tells: ``(1, 8, 8)`` for CHW.
        layout: ``NCHW`` or ``NHWC`` for images, ``NC`` for one vector per sample.
        meaning: What the numbers are: an ``image``, ``tokens`` (indices into a vocabulary) and their ``mask``
            (1 where there is a token, 0 where there is padding), a ``waveform``, a row of ``features``, or ``logits``.
        value_range: What raw data is scaled to before normalisation.
        mean, std: Per channel or feature: the model takes ``(x - mean) / std``.
        labels: Class names of an output, in index order.
        sample_rate: Of a waveform, in Hz.
        vocabulary: Of tokens: how many different ones there are.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: Literal["NCHW", "NHWC", "NC"]
    meaning: Literal["image", "tokens", "mask", "waveform", "features", "logits"]
    value_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None
    sample_rate: int | None = None
    vocabulary: int | None = None


@dataclass(frozen=True)
class ModelSpec:
    """Enough to rebuild a network.

    Attributes:
        reference: A model reference, see :mod:`edgekd.models.references`.
        inputs, outputs: In calling order.
        arguments: Passed to what builds the network, for example ``{"width": 0.5}``.
        pruning: What was cut from it since, see :mod:`edgekd.prune.record`; ``None``: nothing.
    """

    reference: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    pruning: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain data."""
        content = asdict(self)
        if self.pruning is None:
            del content["pruning"]
        return content


def spec_from_json(content: dict[str, Any]) -> ModelSpec:
    """Return the spec that :meth:`ModelSpec.to_json` wrote."""

    def tensor(each: dict[str, Any]) -> TensorSpec:
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in each.items()}
        return TensorSpec(**values)

    inputs, outputs = tuple(map(tensor, content["inputs"])), tuple(map(tensor, content["outputs"]))
    return ModelSpec(content["reference"], inputs, outputs, content.get("arguments", {}), content.get("pruning"))


def image_input(image_shape: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> TensorSpec:
    """Return the input of a network that takes normalised images.

    Args:
        image_shape: Height, width, channels.
        mean, std: Per channel, of pixels scaled to [0, 1].
    """
    height, width, channels = image_shape
    return TensorSpec("image", "float32", (channels, height, width), "NCHW", "image", (0.0, 1.0), mean, std)


def classifier(reference: str, inputs: tuple[TensorSpec, ...], labels: tuple[str, ...],
               arguments: dict[str, Any] | None = None) -> ModelSpec:  # fmt: skip
    """Return the spec of a network from ``inputs`` to one logit per class of ``labels``."""
    logits = TensorSpec("logits", "float32", (len(labels),), "NC", "logits", labels=labels)
    return ModelSpec(reference, inputs, (logits,), arguments or {})
