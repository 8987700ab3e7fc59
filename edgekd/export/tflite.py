"""PyTorch to TFLite with images in NHWC, as Android and iOS apps hand them over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.models.spec import example_inputs, load
from edgekd.models.tensors import spec_from_json
from edgekd.safe.files import atomic_path


def export_tflite(spec: dict[str, Any], weights: str, out: str) -> dict[str, Any]:
    """Write the network of ``spec`` to ``out`` as float32 TFLite with a batch of 1. Runs in a child process.

    Args:
        spec: A :class:`~edgekd.models.spec.ModelSpec` as plain data.
        weights: Its safetensors file.
        out: Path of the file to write.
    """
    import litert_torch

    described = spec_from_json(spec)
    model = load(described, Path(weights))
    images = [index for index, each in enumerate(described.inputs) if each.layout == "NCHW"]
    wrapped = litert_torch.to_channel_last_io(model, args=images)
    arguments = tuple(
        tensor.permute(0, 2, 3, 1).contiguous() if index in images else tensor
        for index, tensor in enumerate(example_inputs(described).values())
    )
    converted = litert_torch.convert(wrapped.eval(), arguments)
    with atomic_path(Path(out)) as temporary:
        converted.export(str(temporary))
    return {}
