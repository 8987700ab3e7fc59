"""From what the student takes to what a teacher trained elsewhere takes, and from its output to the data's logits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from edgekd.models.tensors import TensorSpec

_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601), as Pillow has them."""
_STEP_BELOW_1 = 6e-8
"""From 1 to the next smaller float32, above which a probability cannot be told from 1."""


@dataclass(frozen=True)
class Adapter:
    """How one teacher is fed and read.

    Attributes:
        names: The teacher's input for each of the data's inputs; those left out it does not take.
        zeros: Inputs that get zeros of the shape of the tokens: ``token_type_ids``.
        layout: Of images: ``NCHW`` or ``NHWC``.
        channels: Of images: 1 or 3.
        size: Height and width that images are resized to; ``None``: as they are.
        shape: Shape of one sample if it is neither of the layouts, as ``(784,)``.
        value_range: Of images: what [0, 1] is scaled to before normalisation.
        mean, std: Per channel or feature, after that.
        output: Name of the output to imitate.
        columns: For each class of the data, the teacher's output; ``None``: the same order.
        probabilities: Whether outputs are probabilities; their logarithms equal logits up to a constant.
        floor: Probability below which the output says nothing, half a step of a quantized one.
        single: Whether there is one output for two classes: of its second, the first is what it is not.
    """

    names: dict[str, str]
    zeros: tuple[str, ...] = ()
    layout: str | None = None
    channels: int | None = None
    size: tuple[int, int] | None = None
    shape: tuple[int, ...] | None = None
    value_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output: str = "logits"
    columns: tuple[int, ...] | None = None
    probabilities: bool = False
    floor: float = 1e-30
    single: bool = False
    notes: tuple[str, ...] = field(default=(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the adapter as plain data."""
        return asdict(self)


def adapter_from_json(content: dict[str, Any]) -> Adapter:
    """Return the adapter that :meth:`Adapter.to_json` wrote."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return Adapter(**values)


def teacher_inputs(adapter: Adapter, inputs: dict[str, Tensor], specs: tuple[TensorSpec, ...]) -> dict[str, Tensor]:
    """Return what the teacher takes.

    Args:
        adapter: Of the teacher.
        inputs: What the student takes, normalised, by name.
        specs: What those are.
    """
    fed = {}
    for spec in specs:
        if spec.name in adapter.names:
            value = inputs[spec.name]
            fed[adapter.names[spec.name]] = (
                _image(adapter, value, spec) if spec.meaning == "image"
                else _features(adapter, value, spec) if spec.meaning == "features"
                else value
            )  # fmt: skip
    first = inputs[specs[0].name]
    return fed | {name: torch.zeros_like(first) for name in adapter.zeros}


def _image(adapter: Adapter, images: Tensor, spec: TensorSpec) -> Tensor:
    images = _plain(images, spec, (1, -1, 1, 1))
    if adapter.channels == 3 and images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    elif adapter.channels == 1 and images.shape[1] == 3:
        images = (images * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if adapter.size is not None and tuple(images.shape[2:]) != adapter.size:
        images = torch.nn.functional.interpolate(images, adapter.size, mode="bilinear", antialias=True, align_corners=False)
    if adapter.value_range is not None:
        low, high = adapter.value_range
        images = images * (high - low) + low
    if adapter.mean is not None and adapter.std is not None:
        images = (images - torch.tensor(adapter.mean).view(1, -1, 1, 1)) / torch.tensor(adapter.std).view(1, -1, 1, 1)
    if adapter.layout == "NHWC":
        images = images.permute(0, 2, 3, 1)
    return images.reshape(len(images), *adapter.shape) if adapter.shape is not None else images


def _features(adapter: Adapter, rows: Tensor, spec: TensorSpec) -> Tensor:
    rows = _plain(rows, spec, (1, -1))
    if adapter.mean is not None and adapter.std is not None:
        rows = (rows - torch.tensor(adapter.mean)) / torch.tensor(adapter.std)
    return rows


def _plain(values: Tensor, spec: TensorSpec, shape: tuple[int, ...]) -> Tensor:
    """Undo the student's normalisation."""
    if spec.mean is None or spec.std is None:
        return values.float()
    return values.float() * torch.tensor(spec.std).view(shape) + torch.tensor(spec.mean).view(shape)


def data_logits(adapter: Adapter, output: Tensor) -> Tensor:
    """Return a teacher's output as logits ``[n, classes]`` in the data's class order.

    A softmax hides only a constant per row, which no softmax over the same classes sees: log-probabilities
    serve as logits, over a subset of the classes too.
    """
    output = output.float().reshape(len(output), -1)
    if adapter.single and adapter.probabilities:
        floor = max(adapter.floor, _STEP_BELOW_1)
        output = output.clamp(floor, 1 - floor).logit()
    elif adapter.probabilities:
        output = output.clamp_min(adapter.floor).log()
    if adapter.single:
        output = torch.cat([torch.zeros_like(output), output], 1)
    return output[:, list(adapter.columns)] if adapter.columns is not None else output
