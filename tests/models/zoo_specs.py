"""A small spec and inputs for any network of the zoo, whatever it takes."""

from typing import Any

import torch
from torch import Tensor

from edgekd.models.catalog import ZOO
from edgekd.models.tensors import ModelSpec, TensorSpec, classifier, image_input

VOCABULARY, LENGTH, COLUMNS, SAMPLES = 50, 12, 20, 4000


def spec_for(
    name: str, classes: int = 3, arguments: dict[str, Any] | None = None, size: int = 32, channels: int = 3
) -> ModelSpec:
    """Return a spec of the zoo's ``name`` on images of ``size`` pixels, half a second of sound, short texts or short rows."""
    inputs: dict[str, tuple[TensorSpec, ...]] = {
        "image": (image_input((size, size, channels), (0.0,) * channels, (1.0,) * channels),),
        "audio": (TensorSpec("waveform", "float32", (SAMPLES,), "NC", "waveform", (-1.0, 1.0), sample_rate=8000),),
        "text": (
            TensorSpec("input_ids", "int32", (LENGTH,), "NC", "tokens", vocabulary=VOCABULARY),
            TensorSpec("attention_mask", "int32", (LENGTH,), "NC", "mask"),
        ),
        "features": (TensorSpec("features", "float32", (COLUMNS,), "NC", "features"),),
    }
    return classifier(f"zoo:{name}", inputs[ZOO[name].inputs], tuple(map(str, range(classes))), arguments)


def random_inputs(spec: ModelSpec, count: int) -> dict[str, Tensor]:
    """Return ``count`` random samples; texts are of every length, sounds of every pitch."""
    torch.manual_seed(0)
    made: dict[str, Tensor] = {}
    for each in spec.inputs:
        if each.meaning == "tokens":
            made[each.name] = torch.randint(0, VOCABULARY, (count, LENGTH), dtype=torch.int32)
        elif each.meaning == "mask":
            made[each.name] = (torch.arange(LENGTH) <= torch.arange(count)[:, None] % LENGTH).int()
        elif each.meaning == "waveform":
            pitch = torch.linspace(0.05, 2.5, count)[:, None]  # radians a sample: up to 3.2 kHz
            made[each.name] = 0.5 * torch.sin(pitch * torch.arange(SAMPLES)) + 0.05 * torch.randn(count, SAMPLES)
        else:
            made[each.name] = torch.randn(count, *each.shape)
    return made
