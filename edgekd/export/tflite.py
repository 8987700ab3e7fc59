"""PyTorch to TFLite with named inputs and outputs, and images in NHWC, as Android and iOS apps hand them over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgekd.export.refusals import plain_refusals
from edgekd.models.spec import call, example_inputs, load
from edgekd.models.tensors import ModelSpec, spec_from_json
from edgekd.safe.files import atomic_path


class _MeansOverImages(TorchFunctionMode):
    """Computes the mean over height and width with both kept, and drops them afterwards: the same numbers.

    Of a mean that drops them the converter turns the whole image back to NCHW first, which costs a transpose.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in {torch.mean, Tensor.mean} and args and isinstance(args[0], Tensor) and args[0].ndim == _IMAGE:
            dims = args[1] if len(args) > 1 else given.get("dim")
            keeps = args[2] if len(args) > 2 else given.get("keepdim", False)
            if isinstance(dims, tuple | list) and {int(each) % _IMAGE for each in dims} == {2, 3} and not keeps:
                rest = {key: value for key, value in given.items() if key not in {"dim", "keepdim"}}
                return torch.flatten(func(args[0], dims, True, **rest), 1)
        return func(*args, **given)


_IMAGE = 4
"""Dimensions of a batch of images."""


class _Named(nn.Module):
    """Takes inputs by name, images in NHWC, and returns outputs by name: the converter keeps these names."""

    def __init__(self, model: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.model, self.spec = model, spec

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        images = {each.name for each in self.spec.inputs if each.layout == "NCHW"}
        ordered = {name: value.permute(0, 3, 1, 2) if name in images else value for name, value in inputs.items()}
        return call(self.model, self.spec, ordered)


def export_tflite(spec: dict[str, Any], weights: str, out: str) -> dict[str, Any]:
    """Write the network of ``spec`` to ``out`` as float32 TFLite with a batch of 1. Runs in a child process.

    Args:
        spec: A :class:`~edgekd.models.tensors.ModelSpec` as plain data.
        weights: Its safetensors file.
        out: Path of the file to write.

    Raises:
        ExportError: An operator is not in TFLite, or what is computed depends on values.
    """
    import litert_torch

    described = spec_from_json(spec)
    model = _Named(load(described, Path(weights)), described).eval()
    arguments = {
        each.name: tensor.permute(0, 2, 3, 1).contiguous() if each.layout == "NCHW" else tensor
        for each, tensor in zip(described.inputs, example_inputs(described).values(), strict=True)
    }
    with (
        plain_refusals(
            model, described.reference, "TFLite", lambda: torch.export.export(model, (), arguments, strict=False), root="model"
        ),
        _MeansOverImages(),
    ):
        converted = litert_torch.convert(model, sample_kwargs=arguments)
    with atomic_path(Path(out)) as temporary:
        converted.export(str(temporary))
    return {}
